"""Databases of the tracking server, dumped and loaded with the tools of each database."""

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipelines.runtime.errors import ExternalError, UserError
from pipelines.tracking.artifact_places import move_artifacts, sqlite_address


class Database:
    """A database at an address; ``str()`` hides the password."""

    kind: str

    def __init__(self, url: URL):
        self.url = url

    def __str__(self) -> str:
        return self.url.render_as_string()

    def is_empty(self) -> bool:
        """Whether the database has no tables.

        Raises:
            ExternalError: the database does not answer.
        """
        engine = sqlalchemy.create_engine(self.url)
        try:
            return not sqlalchemy.inspect(engine).get_table_names()
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise ExternalError(f"MLFLOW_STORE: {self} does not answer ({reason})") from None
        finally:
            engine.dispose()

    def move_artifacts(self, old: str, new: str) -> None:
        """Replace the folder ``old`` by ``new`` in all places of artifacts."""
        engine = sqlalchemy.create_engine(self.url)
        with engine.begin() as connection:
            for before, after in ((old, new), (Path(old).as_uri(), Path(new).as_uri())):
                move_artifacts(connection, before, after)
        engine.dispose()

    def dump(self, file: Path) -> None:
        """Write a consistent snapshot to a file; other processes may write to the database meanwhile."""
        raise NotImplementedError

    def load(self, file: Path) -> None:
        """Replace the content by the snapshot that :meth:`dump` wrote."""
        raise NotImplementedError


class Sqlite(Database):
    """A file of sqlite."""

    kind = "sqlite"

    def __init__(self, url: URL):
        super().__init__(url)
        self.path = Path(url.database or "")

    def dump(self, file: Path) -> None:
        if not self.path.is_file():
            raise UserError(f"MLFLOW_STORE: {self} given; there is no such file")
        self._copy(self.path, file)

    def load(self, file: Path) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._copy(file, self.path)

    def _copy(self, origin: Path, target: Path) -> None:
        """Copy with sqlite's online backup, which includes the write-ahead log."""
        try:
            with closing(sqlite3.connect(origin)) as reader, closing(sqlite3.connect(target)) as writer:
                reader.backup(writer)
        except sqlite3.Error as error:
            raise ExternalError(f"MLFLOW_STORE: {self}: {error}") from None


class Postgresql(Database):
    """A database of PostgreSQL; needs the programs ``pg_dump`` and ``pg_restore``."""

    kind = "postgresql"

    def dump(self, file: Path) -> None:
        self._run("pg_dump", "--format=custom", "--no-owner", f"--file={file}")

    def load(self, file: Path) -> None:
        options = ("--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error")
        self._run("pg_restore", *options, str(file))

    def _run(self, program: str, *options: str) -> None:
        """Run a program of PostgreSQL, with the password in its environment, where other users cannot see it."""
        url = self.url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
        password = {"PGPASSWORD": str(self.url.password)} if self.url.password else {}
        try:
            done = subprocess.run(
                [program, f"--dbname={url}", *options], env=os.environ | password, capture_output=True, text=True
            )
        except FileNotFoundError:
            raise ExternalError(f"{program} is not installed here; Debian's package postgresql-client has it") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise ExternalError(f"MLFLOW_STORE: {self}: {lines[0]}")


def configured_database(root: Path) -> Database:
    """The database at MLFLOW_STORE, by default the sqlite database in the state folder of the repository ``root``.

    Raises:
        UserError: the address is malformed, or its database is neither sqlite nor PostgreSQL.
    """
    given = os.environ.get("MLFLOW_STORE") or sqlite_address(root / "state/mlflow.db")
    kinds = {"sqlite": Sqlite, "postgresql": Postgresql}
    try:
        url = make_url(given)
        return kinds[url.get_backend_name()](url)
    except (ArgumentError, KeyError):
        raise UserError("MLFLOW_STORE: the address is not usable; must be sqlite:///… or postgresql://…") from None
