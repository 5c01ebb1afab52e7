"""Versions of registered models: found by number or alias, their files checked before anything of them is loaded."""

import hashlib
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, load_dict
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines.registry.export import DIGEST_TAG
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.tracking.client import RECORD

MAKE_ONE = "of models trained here, dvc repro -f -s register makes versions"


def versions_by_number(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """All versions of a registered model, by number.

    Raises:
        UserError: there is no such model.
    """
    found = list_versions(client, name)
    if not found:
        known = ", ".join(model.name for model in client.search_registered_models()) or "none"
        raise UserError(f"MODEL: {name!r} given; the registry has no such model (it has: {known}); {MAKE_ONE}")
    return {str(version.version): version for version in found}


def find_version(client: MlflowClient, name: str, wanted: str) -> ModelVersion:
    """The version of this number, or the one that this alias points to.

    Raises:
        UserError: there is no such model, version or alias.
    """
    of_model, aliases = versions_by_number(client, name), aliases_of(client, name)
    number = aliases.get(wanted, wanted)
    if number not in of_model:
        known = ", ".join([*aliases, *sorted(of_model, key=int)])
        raise UserError(f"VERSION: {wanted!r} given; {name} has {known}")
    return of_model[number]


def fetch_files(version: ModelVersion, folder: Path) -> Path:
    """Bring a version's files into ``folder``, a new one, and return the path that MLflow loads it from.

    A registered model is code that runs when it is loaded, so its files must first be known to be those registered.

    Raises:
        ExternalError: files are gone, or are not those that were registered.
    """
    folder.mkdir()
    where = f"version {version.version} of {version.name}"
    try:
        download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        raise ExternalError(f"{where}: its files cannot be read ({error}); delete that version; {MAKE_ONE}") from None
    prefix = DIGEST_TAG
    digests = {key.removeprefix(prefix): value for key, value in version.tags.items() if key.startswith(prefix)}
    if not digests:
        raise ExternalError(f"{where}: it has no tag {prefix}… to know its files by; nothing of it was loaded")
    for file, digest in digests.items():
        path = next(iter(folder.rglob(file)), None)
        if path is None:
            raise ExternalError(f"{where}: its file {file} is gone; nothing of it was loaded")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ExternalError(
                f"{where}: its file {file} is not the one that was registered; nothing of it was loaded"
            )
    return next(folder.rglob("MLmodel")).parent


def list_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model; none where there is no such model."""
    return list(client.search_model_versions(f"name = '{name}'"))


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    """Where the aliases of a registered model point: alias → version; empty where there is no such model."""
    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def record_of(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """The record of the training that a version comes from, as the stage train made it.

    Raises:
        ExternalError: its run, or the record in it, is gone.
    """
    assert version.run_id is not None
    where = f"version {version.version} of {version.name}"
    try:
        uri = client.get_run(version.run_id).info.artifact_uri
        return load_dict(f"{uri}/{RECORD}")
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ExternalError(f"{where}: run {version.run_id} has no record of its training ({reason})") from None
