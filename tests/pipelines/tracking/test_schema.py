"""Databases of an older and of a newer MLflow."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config, _initialize_tables
from mlflow.store.tracking.dbmodels.initial_models import Base

from pipelines.runtime.errors import ExternalError
from pipelines.tracking import schema as schema_module
from pipelines.tracking.artifact_places import sqlite_address
from pipelines.tracking.client import connect
from pipelines.tracking.schema import prepare_schema

SCRIPTS = ScriptDirectory.from_config(_get_alembic_config(""))
HEAD = SCRIPTS.get_current_head() or ""
BEFORE = str(SCRIPTS.get_revision(HEAD).down_revision)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where the database of the default store lies."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "state").mkdir()
    return tmp_path / "state/mlflow.db"


@pytest.fixture
def older(place) -> Path:
    """The database of an MLflow before the last change of its schema."""
    engine = sqlalchemy.create_engine(sqlite_address(place))
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config = _get_alembic_config(sqlite_address(place))
        config.attributes["connection"] = connection
        command.upgrade(config, BEFORE)
    engine.dispose()
    return place


def execute(database: Path, statement: str) -> list:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(statement).fetchall()
        connection.commit()
    return rows


def revision(database: Path) -> str:
    return execute(database, "SELECT version_num FROM alembic_version")[0][0]


def backups(database: Path) -> list[Path]:
    return [path for path in database.parent.iterdir() if ".before-" in path.name]


def test_an_older_database_is_migrated_after_a_backup(older, capsys):
    connect()
    said = capsys.readouterr().out
    (backup,) = backups(older)
    assert revision(older) == HEAD and revision(backup) == BEFORE
    assert f"{older} was migrated for MLflow {mlflow.__version__}; before: {backup}" in said
    connect()
    assert "migrated" not in capsys.readouterr().out and backups(older) == [backup]


def test_a_migration_that_fails_leaves_the_database_as_it_was(new_store, place):
    """Its schema is newer than the revision that it names, as after half a downgrade."""
    shutil.copyfile(new_store, place)
    first = next(script.revision for script in SCRIPTS.walk_revisions() if script.is_base)
    execute(place, f"UPDATE alembic_version SET version_num = '{first}'")
    with pytest.raises(ExternalError, match=r"cannot migrate this database \(.*\); it is as it was") as raised:
        connect()
    assert "\n" not in str(raised.value) and "move it away" not in str(raised.value)
    assert revision(place) == first
    (backup,) = backups(place)
    tables = "SELECT name, sql FROM sqlite_master ORDER BY name"
    assert execute(place, tables) == execute(backup, tables)


def test_a_newer_database_is_refused_with_the_version_that_is_needed(new_store, place, monkeypatch):
    shutil.copyfile(new_store, place)
    execute(place, "UPDATE alembic_version SET version_num = 'feedfeedfeed'")
    before = place.read_bytes()
    with pytest.raises(ExternalError, match=rf"last used with an MLflow newer than {mlflow.__version__}"):
        connect()
    place.with_name("mlflow.db.mlflow").write_text("99.1.0 feedfeedfeed\n")
    with pytest.raises(ExternalError, match=r"last used with MLflow 99\.1\.0 .*; run make setup") as raised:
        connect()
    assert "\n" not in str(raised.value) and "register" not in str(raised.value)
    assert place.read_bytes() == before


def test_a_database_of_postgresql_is_neither_migrated_nor_used_if_its_schema_is_of_another_version(make_database):
    """A backup is the administrator's task there. The password is in no message."""
    address = make_database()
    engine = sqlalchemy.create_engine(address)
    for found, message in (
        (
            BEFORE,
            r"has an older schema than MLflow .*; back it up with make backup TO=folder; then run: mlflow db upgrade",
        ),
        ("ffffffffffff", r"was last used with an MLflow newer than"),
    ):
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS alembic_version"))
            connection.execute(sqlalchemy.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(sqlalchemy.text("INSERT INTO alembic_version VALUES (:found)"), {"found": found})
        with pytest.raises(ExternalError, match=message) as caught:
            prepare_schema(address)
        assert "of%20the%20tests" not in str(caught.value)
        with engine.connect() as connection:
            assert sqlalchemy.inspect(connection).get_table_names() == ["alembic_version"]
            assert connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar() == found
    engine.dispose()


def test_a_new_database_has_the_schema_that_mlflow_creates(place, tmp_path):
    connect()
    engine = sqlalchemy.create_engine(sqlite_address(tmp_path / "mlflows.db"))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("PRAGMA synchronous = OFF"))
    _initialize_tables(engine)
    engine.dispose()

    def schema(database: Path) -> dict:
        """The words of each statement. The order of constraints differs from one creation to the next."""
        rows = execute(database, "SELECT type, name, sql FROM sqlite_master")
        return {(kind, name): sorted((sql or "").replace(",", " ").split()) for kind, name, sql in rows}

    assert len(schema(place)) > 50 and schema(place) == schema(tmp_path / "mlflows.db")
    assert revision(place) == HEAD and [path.name for path in place.parent.iterdir() if path.is_file()] == ["mlflow.db"]


def test_a_database_that_cannot_be_created_leaves_nothing_behind(place, files_of_at_most):
    with files_of_at_most(100_000), pytest.raises(ExternalError, match="does not answer"):
        connect()
    assert [(path.name, path.stat().st_size) for path in place.parent.iterdir() if path.is_file()] == [("mlflow.db", 0)]
    connect()
    assert revision(place) == HEAD


def test_a_database_that_another_project_creates_meanwhile_is_kept(new_store, place, monkeypatch):
    initialize = schema_module._initialize_tables

    def initialize_late(engine) -> None:
        shutil.copyfile(new_store, place)
        execute(place, "CREATE TABLE of_the_other (id)")
        initialize(engine)

    monkeypatch.setattr(schema_module, "_initialize_tables", initialize_late)
    connect()
    assert execute(place, "SELECT name FROM sqlite_master WHERE name = 'of_the_other'")
    assert [path.name for path in place.parent.iterdir() if path.is_file() and path.name.startswith(".")] == []
