"""Places of artifacts in MLflow's database. Imports only what the image of the tracking server has."""

from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection, func, literal

# The columns in which MLflow stores places of artifacts. They are absolute if the database was used without a server.
LOCATIONS = {
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "logged_models": ["artifact_location"],
    "model_versions": ["source", "storage_location"],
}


def sqlite_address(file: Path) -> str:
    """The address of a database of sqlite. SQLAlchemy decodes ``%`` and takes ``?`` for the start of options."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def move_artifacts(connection: Connection, old: str, new: str) -> None:
    """Replace the address or folder ``old`` by ``new`` in all places of artifacts in a database of MLflow."""
    tables = sqlalchemy.MetaData()
    tables.reflect(connection, only=list(LOCATIONS))
    for table, columns in LOCATIONS.items():
        for column in (tables.tables[table].c[name] for name in columns):
            moved = literal(new) + func.substr(column, len(old) + 1)
            under = (column == old) | column.startswith(f"{old}/", autoescape=True)
            connection.execute(column.table.update().where(under).values({column: moved}))
