"""Back up and restore the tracking server's store: its database and artifacts.

python -m tools.backup to FOLDER        the server may be running
python -m tools.backup from FOLDER      into an empty store, or with --overwrite into any; stop the server first

The store is the one that mlflow/server.sh serves: the database MLFLOW_STORE, which includes the accounts, and the
artifacts at MLFLOW_ARTIFACT_ROOT. The variables that their servers need are read as well (PGPASSWORD,
AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
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

from pipelines.runtime.errors import ExternalError, UserError, run_main
from tools.databases import configured_database

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = "manifest.json"


def artifact_root() -> str:
    """The server's root of artifacts: an absolute folder, or an address such as s3://bucket/folder."""
    root = os.environ.get("MLFLOW_ARTIFACT_ROOT") or str(ROOT / "state/artifacts")
    return root if "://" in root else str(Path(root).absolute())


def open_repository(root: str) -> ArtifactRepository:
    """MLflow's client of the artifacts under ``root``; a missing folder is created."""
    if "://" not in root:
        Path(root).mkdir(parents=True, exist_ok=True)
    return get_artifact_repository(root)


def holds_files(artifacts: ArtifactRepository, folder: str | None = None) -> bool:
    """Whether the repository holds any file. Empty folders are ignored; deletion leaves them."""
    return any(not entry.is_dir or holds_files(artifacts, entry.path) for entry in artifacts.list_artifacts(folder))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below the folder, by its path relative to the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def back_up(folder: Path) -> None:
    """Write the store to a new folder, which gets its name when it is complete.

    The database is copied first. Artifacts are only ever added, and MLflow records a run or a version after its files
    are stored, so the artifacts that are copied later include all that this database refers to.

    Raises:
        UserError: the folder exists.
        ExternalError: the database or the artifacts cannot be read.
    """
    if folder.exists():
        raise UserError(f"'{folder}' given; must be a folder that does not exist yet")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "artifacts").mkdir(parents=True)
    database, root = configured_database(ROOT), artifact_root()
    database.dump(partial / "database")
    artifacts = open_repository(root)
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


def read_manifest(folder: Path) -> dict:
    """Read the manifest of a backup, and check that its files are complete and unchanged.

    Raises:
        UserError: the folder holds no backup.
        ExternalError: a file is missing, changed or added.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        raise UserError(f"'{folder}' given; must be a folder that `make backup` wrote") from None
    except ValueError:
        raise ExternalError(f"{folder / MANIFEST}: damaged; take another backup") from None
    found = digests(folder)
    found.pop(MANIFEST)
    for name in sorted(found.keys() | manifest["files"].keys()):
        if found.get(name) != manifest["files"].get(name):
            what = "missing" if name not in found else "not the file that was backed up"
            raise ExternalError(f"{folder / name}: {what}; nothing was restored; take another backup")
    return manifest


def restore(folder: Path, overwrite: bool) -> None:
    """Write a backup into the store. Artifacts come first, so the database never refers to missing ones.

    Raises:
        UserError: the folder holds no backup, or a backup of another kind of database; or the store is not empty.
        ExternalError: the backup is damaged, or the database or the artifacts cannot be written.
    """
    manifest = read_manifest(folder)
    database, root = configured_database(ROOT), artifact_root()
    if database.kind != manifest["database"]:
        raise UserError(f"MLFLOW_STORE: {database} given; this backup is of {manifest['database']}")
    artifacts = open_repository(root)
    if not overwrite:
        if not database.is_empty():
            raise UserError(f"MLFLOW_STORE: {database} is not empty; OVERWRITE=1 replaces it")
        if holds_files(artifacts):
            raise UserError(f"MLFLOW_ARTIFACT_ROOT: {root} is not empty; OVERWRITE=1 replaces its files")
    artifacts.log_artifacts(str(folder / "artifacts"))
    database.load(folder / "database")
    if manifest["artifact_root"] != root:
        database.move_artifacts(manifest["artifact_root"], root)
    print(f"{database}, {root}: restored to the state of {manifest['made']}")


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
    run_main(main)
