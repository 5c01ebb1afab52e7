"""Versions of registered models: lookup by number or alias, and verified download of their files."""

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

HOW_TO_REGISTER = "dvc repro -f -s register registers the models trained here"


def versions_by_number(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """Return all versions of a registered model, by number.

    Raises:
        UserError: the registry has no such model.
    """
    versions = list_versions(client, name)
    if not versions:
        known = ", ".join(model.name for model in client.search_registered_models()) or "none"
        raise UserError(f"MODEL: {name!r} given; the registry has no such model (it has: {known}); {HOW_TO_REGISTER}")
    return {str(version.version): version for version in versions}


def find_version(client: MlflowClient, name: str, wanted: str) -> ModelVersion:
    """Return the version with this number, or the version that this alias points to.

    Raises:
        UserError: the registry has no such model, version or alias.
    """
    versions, aliases = versions_by_number(client, name), aliases_of(client, name)
    number = aliases.get(wanted, wanted)
    if number not in versions:
        known = ", ".join([*aliases, *sorted(versions, key=int)])
        raise UserError(f"VERSION: {wanted!r} given; {name} has {known}")
    return versions[number]


def fetch_files(version: ModelVersion, folder: Path) -> Path:
    """Download a version's files into the new folder ``folder`` and return the path that MLflow loads.

    Loading a registered model runs code from its files. The files are therefore compared with the digests in the
    version's tags before anything is loaded.

    Raises:
        ExternalError: files are missing, or differ from the registered ones.
    """
    folder.mkdir()
    label = f"version {version.version} of {version.name}"
    try:
        download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        raise ExternalError(
            f"{label}: its files cannot be read ({error}); delete that version; {HOW_TO_REGISTER}"
        ) from None
    digests = {
        key.removeprefix(DIGEST_TAG): digest for key, digest in version.tags.items() if key.startswith(DIGEST_TAG)
    }
    if not digests:
        raise ExternalError(f"{label}: it has no tag {DIGEST_TAG}… to verify its files with; nothing was loaded")
    for file, digest in digests.items():
        path = next(iter(folder.rglob(file)), None)
        if path is None:
            raise ExternalError(f"{label}: its file {file} is missing; nothing was loaded")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ExternalError(f"{label}: its file {file} differs from the registered one; nothing was loaded")
    return next(folder.rglob("MLmodel")).parent


def list_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions of a registered model; an empty list if there is no such model."""
    return list(client.search_model_versions(f"name = '{name}'"))


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the aliases of a registered model as alias → version; empty if there is no such model."""
    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def record_of(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """Return the training record that the stage train stored in a version's run.

    The record may have been written at any earlier commit, so it stays a plain JSON value.

    Raises:
        ExternalError: the run, or the record in it, is missing.
    """
    assert version.run_id is not None
    try:
        uri = client.get_run(version.run_id).info.artifact_uri
        return load_dict(f"{uri}/{RECORD}")
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ExternalError(
            f"version {version.version} of {version.name}: run {version.run_id} has no record of its training "
            f"({reason})"
        ) from None
