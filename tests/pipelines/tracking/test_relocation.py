"""A project that was moved or copied: artifacts of the default store are found in it, and the original stays."""

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from pipelines.commands import predict
from pipelines.registry.promotion import promote
from pipelines.runtime.files import write_text
from pipelines.runtime.keys import key_of
from pipelines.settings.params import load_params
from pipelines.tracking.artifact_places import LOCATIONS
from pipelines.tracking.client import connect
from pipelines.tracking.outbox import pending_folder

NAME = "stn-mine"


def places(project: Path) -> set[str]:
    """All places of artifacts in a project's database, except the default experiment's."""
    with closing(sqlite3.connect(project / "state/mlflow.db")) as database:
        columns = ((table, column) for table, names in LOCATIONS.items() for column in names)
        found = [row[0] for table, column in columns for row in database.execute(f"SELECT {column} FROM {table}")]
    return {place for place in found if place and place.startswith("file:")}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts}


@pytest.fixture
def use(monkeypatch):
    """Makes a folder the project that commands work in."""

    def enter(folder: Path) -> Path:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it
        monkeypatch.setenv("DVC_ROOT", str(folder))
        monkeypatch.chdir(folder)
        return folder

    return enter


def test_a_copied_and_a_moved_project_use_their_own_artifacts(registry, use, tmp_path, monkeypatch, capsys):
    original = contents(registry / "state")
    copy = use(shutil.copytree(registry, tmp_path / "copy", symlinks=True))
    promotion = promote(NAME, load_params(), "2")
    assert promotion is not None and f"are now found in {copy}/state" in capsys.readouterr().out
    assert contents(registry / "state") == original
    assert places(copy) and all(place.startswith(f"{copy.as_uri()}/state/artifacts/") for place in places(copy))

    write_text(pending_folder(connect()) / "a-run.kept", "an update")
    moved = use(copy.rename(tmp_path / "it's my #1 stn? 100%25"))
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(sys, "argv", ["predict", NAME, str(tmp_path / "a.png"), "--version", "2"])
    predict.main()
    assert "are now found in" in capsys.readouterr().out
    assert all(place.startswith(f"{moved.as_uri()}/state/artifacts/") for place in places(moved))
    # Updates that wait for the store are delivered to it at its new address.
    assert (pending_folder(connect()) / "a-run.kept").exists()
    assert [path.name for path in (moved / "state/delivery").iterdir()] == [key_of(connect().tracking_uri)]
    assert "now found" not in capsys.readouterr().out


def test_artifacts_that_did_not_come_along_keep_their_place(registry, use, tmp_path, capsys):
    (tmp_path / "state").mkdir()
    shutil.copyfile(registry / "state/mlflow.db", tmp_path / "state/mlflow.db")
    use(tmp_path)
    connect()
    assert places(tmp_path) == places(registry) and "now found" not in capsys.readouterr().out
