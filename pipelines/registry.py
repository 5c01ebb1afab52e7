"""Versions of registered models: found by number or alias, their files checked before anything of them is loaded."""

import hashlib
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines import tracking
from pipelines.errors import UserError, WorldError

MAKE_ONE = "of models trained here, dvc repro -f -s register makes versions"


def versions(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """All versions of a registered model, by number.

    Raises:
        UserError: there is no such model.
    """
    found = tracking.registered_versions(client, name)
    if not found:
        known = ", ".join(model.name for model in client.search_registered_models()) or "none"
        raise UserError(f"MODEL: {name!r} given; the registry has no such model (it has: {known}); {MAKE_ONE}")
    return {str(version.version): version for version in found}


def find(client: MlflowClient, name: str, wanted: str) -> ModelVersion:
    """The version of this number, or the one that this alias points to.

    Raises:
        UserError: there is no such model, version or alias.
    """
    of_model, aliases = versions(client, name), tracking.aliases(client, name)
    number = aliases.get(wanted, wanted)
    if number not in of_model:
        known = ", ".join([*aliases, *sorted(of_model, key=int)])
        raise UserError(f"VERSION: {wanted!r} given; {name} has {known}")
    return of_model[number]


def fetch(version: ModelVersion, folder: Path) -> Path:
    """Bring a version's files into ``folder``, a new one, and return the path that MLflow loads it from.

    A registered model is code that runs when it is loaded, so its files must first be known to be those registered.

    Raises:
        WorldError: files are gone, or are not those that were registered.
    """
    folder.mkdir()
    where = f"version {version.version} of {version.name}"
    try:
        download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        raise WorldError(f"{where}: its files cannot be read ({error}); delete that version; {MAKE_ONE}") from None
    prefix = tracking.DIGEST_TAG
    digests = {key.removeprefix(prefix): value for key, value in version.tags.items() if key.startswith(prefix)}
    if not digests:
        raise WorldError(f"{where}: it has no tag {prefix}… to know its files by; nothing of it was loaded")
    for file, digest in digests.items():
        path = next(iter(folder.rglob(file)), None)
        if path is None:
            raise WorldError(f"{where}: its file {file} is gone; nothing of it was loaded")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise WorldError(f"{where}: its file {file} is not the one that was registered; nothing of it was loaded")
    return next(folder.rglob("MLmodel")).parent
