"""Artifacts of the default store follow the project's folder when that is moved or copied.

MLflow stores the places of artifacts as absolute addresses.
"""

import re
from pathlib import Path
from urllib.parse import unquote

import sqlalchemy

from pipelines.runtime.files import write_text
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import key_of
from pipelines.tracking.artifact_places import move_artifacts, sqlite_address

OWN_PLACE = re.compile(r"file://(?P<state>/.*)/artifacts/(?P<experiment>[^/]+)")


def follow_the_folder(uri: str) -> None:
    """Let the default store refer to the artifacts in this project, if they were moved or copied with it.

    An experiment whose artifacts are not here keeps its place.

    Args:
        uri: address of the store, an sqlite database in the state folder.
    """
    here = state_dir("artifacts")
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.begin() as connection:
            found = connection.execute(sqlalchemy.text("SELECT artifact_location FROM experiments")).scalars()
            places = [place for place in map(OWN_PLACE.fullmatch, found) if place]
            moved = [place for place in places if _came_along(place, here)]
            for place in moved:
                move_artifacts(connection, place[0], (here / unquote(place["experiment"])).as_uri())
    finally:
        engine.dispose()
    for state in {unquote(place["state"]) for place in moved}:
        _take_over_delivery(sqlite_address(Path(state) / "mlflow.db"), uri)
        print(f"tracking store: the artifacts that were in {state} are now found in {here.parent}", flush=True)


def _came_along(place: re.Match[str], here: Path) -> bool:
    """Whether an experiment's artifacts are in this project, and the store looks for them elsewhere."""
    own = here / unquote(place["experiment"])
    return place[0] != own.as_uri() and own.is_dir() and any(own.iterdir())


def _take_over_delivery(old: str, new: str) -> None:
    """Let updates that wait for the store at its old address be delivered to the new one."""
    before, after = (state_dir("delivery") / key_of(address) for address in (old, new))
    if before.is_dir() and not after.exists():
        before.rename(after)
        write_text(after / "store", new + "\n")
