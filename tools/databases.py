"""The database of the tracking server, written to a file and read back by its own kind of backup."""

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL, func, literal, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipelines.runtime.errors import ExternalError, UserError

# Where MLflow writes down places of artifacts; absolute ones, where a database was used without a server.
LOCATIONS = {
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "logged_models": ["artifact_location"],
    "model_versions": ["source", "storage_location"],
}


class Database:
    """A database by its address; shown without its password."""

    kind: str

    def __init__(self, url: URL):
        self.url = url

    def __str__(self) -> str:
        return self.url.render_as_string()

    def is_empty(self) -> bool:
        """Whether it has no tables."""
        engine = sqlalchemy.create_engine(self.url)
        try:
            return not sqlalchemy.inspect(engine).get_table_names()
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise ExternalError(f"MLFLOW_STORE: {self} does not answer ({reason})") from None
        finally:
            engine.dispose()

    def move_artifacts(self, old: str, new: str) -> None:
        """Have it look under the folder ``new`` for the artifacts that it has under the folder ``old``."""
        engine = sqlalchemy.create_engine(self.url)
        with engine.begin() as connection:
            tables = sqlalchemy.MetaData()
            tables.reflect(connection, only=list(LOCATIONS))
            for before, after in ((old, new), (Path(old).as_uri(), Path(new).as_uri())):
                for table, columns in LOCATIONS.items():
                    for column in (tables.tables[table].c[name] for name in columns):
                        moved = literal(f"{after}/") + func.substr(column, len(before) + 2)
                        under = column.startswith(f"{before}/", autoescape=True)
                        connection.execute(column.table.update().where(under).values({column: moved}))
        engine.dispose()

    def dump(self, file: Path) -> None:
        """Write all of it to a file, as it is at one moment, while others go on writing."""
        raise NotImplementedError

    def load(self, file: Path) -> None:
        """Replace all of it by what :meth:`dump` wrote."""
        raise NotImplementedError


class Sqlite(Database):
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
        """By sqlite's online backup: a whole state, with what lies in its log."""
        try:
            with closing(sqlite3.connect(origin)) as reader, closing(sqlite3.connect(target)) as writer:
                reader.backup(writer)
        except sqlite3.Error as error:
            raise ExternalError(f"MLFLOW_STORE: {self}: {error}") from None


class Postgresql(Database):
    kind = "postgresql"

    def dump(self, file: Path) -> None:
        self._run("pg_dump", "--format=custom", "--no-owner", f"--file={file}")

    def load(self, file: Path) -> None:
        options = ("--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error")
        self._run("pg_restore", *options, str(file))

    def _run(self, program: str, *options: str) -> None:
        """Run a program of PostgreSQL's, with the password in its environment, which other users do not see."""
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


def database_of(root: Path) -> Database:
    """The database of MLFLOW_STORE where set, else the sqlite one in the state of the repository ``root``.

    Raises:
        UserError: the address is none, or of a database that is neither sqlite nor PostgreSQL.
    """
    given = os.environ.get("MLFLOW_STORE") or f"sqlite:///{root / 'state/mlflow.db'}"
    kinds = {"sqlite": Sqlite, "postgresql": Postgresql}
    try:
        url = make_url(given)
        return kinds[url.get_backend_name()](url)
    except (ArgumentError, KeyError):
        raise UserError("MLFLOW_STORE: not an address of a kind that is known: sqlite:///… or postgresql://…") from None
