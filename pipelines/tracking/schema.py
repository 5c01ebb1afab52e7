"""The schema of MLflow's database: a new one is created, an older one migrated after a backup, a newer one refused.

By itself MLflow migrates some older databases in place without a word, and refuses others.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import mlflow
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.store.db.utils import _get_alembic_config, _initialize_tables, _upgrade_db, create_sqlalchemy_engine
from sqlalchemy import Engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from pipelines.runtime.environment import redact
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import write_text
from pipelines.tracking.artifact_places import sqlite_address


def prepare_schema(uri: str) -> None:
    """Bring a database to the schema of the installed MLflow.

    A new database of sqlite is created; others are left to MLflow. An older database of sqlite is copied beside itself
    before its migration. The file ``<database>.mlflow`` names the version of MLflow that used it last, and its schema.

    Raises:
        ExternalError: the schema is of a newer MLflow, is older in another database than sqlite, or cannot be migrated.
    """
    engine = create_sqlalchemy_engine(uri)
    try:
        current = _read_revision(engine)
        file = Path(make_url(uri).database or "") if uri.startswith("sqlite") else None
        if current is None:
            if file is not None and file.is_file() and not file.stat().st_size:
                engine.dispose()
                _create(file.resolve())
            return
        note = None if file is None else Path(f"{file}.mlflow")
        written = note.read_text().split() if note and note.exists() else []
        if written == [mlflow.__version__, current]:
            return
        scripts = ScriptDirectory.from_config(_get_alembic_config(""))
        head = scripts.get_current_head()
        if current not in {script.revision for script in scripts.walk_revisions()}:
            noted = written[1:] == [current]
            needed = f"MLflow {written[0]}" if noted else f"an MLflow newer than {mlflow.__version__}"
            raise ExternalError(
                f"MLFLOW_TRACKING_URI: {redact(uri)}: this database was last used with {needed} (schema {current}), "
                f"and MLflow {mlflow.__version__} is installed; run make setup in a checkout that has the newer one"
            )
        if current != head:
            if file is None:
                raise ExternalError(
                    f"MLFLOW_TRACKING_URI: {redact(uri)}: this database has an older schema than MLflow "
                    f"{mlflow.__version__}; back it up with make backup TO=folder; then run: mlflow db upgrade ADDRESS"
                )
            _migrate(engine, file, current)
        if note is not None:
            with suppress(OSError):  # a folder that cannot be written
                write_text(note, f"{mlflow.__version__} {head}\n")
    finally:
        engine.dispose()


def _read_revision(engine: Engine) -> str | None:
    """The revision of a database's schema; None for a new database."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _create(file: Path) -> None:
    """Create a database of sqlite beside ``file``, and move it there.

    The disk is awaited once. MLflow itself awaits it after each of its changes to the schema, which takes seconds.
    """
    new = file.with_name(f".{os.getpid()}")  # no longer than mlflow.db: sqlite limits the length of paths
    engine = create_sqlalchemy_engine(sqlite_address(new))
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    try:
        _initialize_tables(engine)
        engine.dispose()
        with new.open("rb") as written:
            os.fsync(written.fileno())
        if not file.stat().st_size:  # a process of another project may have created it, too
            new.replace(file)
    finally:
        engine.dispose()
        new.unlink(missing_ok=True)


def _migrate(engine: Engine, file: Path, revision: str) -> None:
    """Copy a database of sqlite beside itself, and migrate it. If that fails, its content is put back.

    Raises:
        ExternalError: it cannot be migrated, such as one whose schema was set back by half.
        OSError: the copy cannot be written.
    """
    backup = file.with_name(f"{file.stem}.before-{mlflow.__version__}-{revision}{file.suffix}")
    partial = backup.with_name(f".{backup.name}.partial")
    _copy(file, partial)
    partial.rename(backup)
    try:
        _upgrade_db(engine)
    except (SQLAlchemyError, CommandError) as error:
        engine.dispose()
        _copy(backup, file)
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        raise ExternalError(
            f"{file}: MLflow {mlflow.__version__} cannot migrate this database ({reason}); it is as it was; restore a "
            f"backup with make restore FROM=folder, or use the MLflow that it was last used with"
        ) from None
    print(f"tracking store: {file} was migrated for MLflow {mlflow.__version__}; before: {backup}", flush=True)


def _copy(origin: Path, target: Path) -> None:
    """Copy with sqlite's online backup, which includes the write-ahead log, and replaces a database's content."""
    with closing(sqlite3.connect(origin)) as reader, closing(sqlite3.connect(target)) as writer:
        reader.backup(writer)
