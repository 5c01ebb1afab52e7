"""Back up the tracking server's store, database and artifacts, and restore it.

python -m tools.backup to FOLDER        while the server is at work, or not
python -m tools.backup from FOLDER      into an empty store; --overwrite: into one that is not. Stop the server first.

The store is the one that mlflow/server.sh serves: MLFLOW_STORE, accounts included, and MLFLOW_ARTIFACT_ROOT, with the
variables that their servers need (PGPASSWORD, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pipelines.runtime.errors import ExternalError, UserError, run
from tools.databases import database_of

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = "manifest.json"


def artifact_root() -> str:
    """Where the server puts artifacts: an absolute folder, or an address such as s3://bucket/folder."""
    root = os.environ.get("MLFLOW_ARTIFACT_ROOT") or str(ROOT / "state/artifacts")
    return root if "://" in root else str(Path(root).absolute())


def repository(root: str) -> ArtifactRepository:
    """MLflow's own way to what is stored under ``root``, whatever kind of place that is."""
    if "://" not in root:
        Path(root).mkdir(parents=True, exist_ok=True)
    return get_artifact_repository(root)


def holds_files(artifacts: ArtifactRepository, folder: str | None = None) -> bool:
    """Whether there is a file; of what was deleted, S3 servers and file systems keep empty folders."""
    return any(not entry.is_dir or holds_files(artifacts, entry.path) for entry in artifacts.list_artifacts(folder))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below the folder, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def back_up(folder: Path) -> None:
    """Write the store to a new folder, which bears its name only once it is whole.

    The database goes first. Artifacts are only ever added, and a run or version is written down after its files are
    there: so what this database names is among the artifacts that are copied afterwards.

    Raises:
        UserError: the folder exists.
        ExternalError: the database or the artifacts cannot be read.
    """
    if folder.exists():
        raise UserError(f"'{folder}' given; a folder that does not exist yet")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "artifacts").mkdir(parents=True)
    database, root = database_of(ROOT), artifact_root()
    database.dump(partial / "database")
    artifacts = repository(root)
    if holds_files(artifacts):
        artifacts.download_artifacts("", str(partial / "artifacts"))
    manifest = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "mlflow": version("mlflow"),
        "database": database.kind,
        "artifact_root": root,
        "files": digests(partial),
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    os.sync()
    partial.rename(folder)
    print(f"{folder}: {database.kind}, {len(manifest['files']) - 1} artifacts")


def read(folder: Path) -> dict:
    """The manifest of a backup whose files are all there and as they were written.

    Raises:
        UserError: there is no backup in the folder.
        ExternalError: a file is missing, altered or was added.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        raise UserError(f"'{folder}' given; a folder that `make backup` wrote") from None
    except ValueError:
        raise ExternalError(f"{folder / MANIFEST}: damaged; take another backup") from None
    found = digests(folder)
    found.pop(MANIFEST)
    for name in sorted(found.keys() | manifest["files"].keys()):
        if found.get(name) != manifest["files"].get(name):
            what = "missing" if name not in found else "not what was backed up"
            raise ExternalError(f"{folder / name}: {what}; nothing was restored; take another backup")
    return manifest


def restore(folder: Path, overwrite: bool) -> None:
    """Write a backup into the store, artifacts first, so that the database never names what is not there.

    Raises:
        UserError: there is no backup in the folder; it is one of another kind of database; the store is not empty.
        ExternalError: the backup is damaged; the database or the artifacts cannot be written.
    """
    manifest = read(folder)
    database, root = database_of(ROOT), artifact_root()
    if database.kind != manifest["database"]:
        raise UserError(f"MLFLOW_STORE: {database} given; this backup is of {manifest['database']}")
    artifacts = repository(root)
    if not overwrite:
        if not database.is_empty():
            raise UserError(f"MLFLOW_STORE: {database} is not empty; with OVERWRITE=1 it is replaced")
        if holds_files(artifacts):
            raise UserError(f"MLFLOW_ARTIFACT_ROOT: {root} is not empty; with OVERWRITE=1 files are replaced")
    artifacts.log_artifacts(str(folder / "artifacts"))
    database.load(folder / "database")
    if manifest["artifact_root"] != root:
        database.move_artifacts(manifest["artifact_root"], root)
    print(f"{database}, {root}: as they were at {manifest['made']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.backup")
    parser.add_argument("direction", choices=("to", "from"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--overwrite", action="store_true", help="restore into a store that is not empty")
    arguments = parser.parse_args()
    try:
        if arguments.direction == "to":
            back_up(arguments.folder)
        else:
            restore(arguments.folder, arguments.overwrite)
    except MlflowException as error:
        raise ExternalError(f"MLFLOW_ARTIFACT_ROOT: {str(error).splitlines()[0][:300]}") from None


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    run(main)
