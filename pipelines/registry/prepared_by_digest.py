"""Finds the prepared data that a version was trained on, by their digest."""

import json
from pathlib import Path

from pipelines.outputs.prepared_data import PREPARED
from pipelines.runtime.files import read_json

WHERE = f"neither in {PREPARED} nor in DVC's cache; prepare them again, or get them by dvc fetch --all-commits"


def find_prepared(digest: str, target: Path) -> Path | None:
    """Find the prepared data with this digest in ``data/prepared`` or in DVC's cache.

    Data of an experiment in a temporary work tree, such as the demo, are in the cache alone.

    Returns:
        ``data/prepared``, or ``target`` with links to the files in the cache; None if neither has them.
    """
    if (PREPARED / "meta.json").exists() and read_json(PREPARED / "meta.json").get("digest") == digest:
        return PREPARED
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        cache = Path(Repo().cache.local.path)
    except NotDvcRepoError:
        return None
    for listing in cache.glob("*/*.dir"):
        # DVC stores a file in the folder named by the first two digits of its MD5.
        files = {
            entry["relpath"]: cache / entry["md5"][:2] / entry["md5"][2:] for entry in json.loads(listing.read_text())
        }
        meta = files.get("meta.json")
        if meta is None or not meta.exists() or read_json(meta).get("digest") != digest:
            continue
        if all(file.exists() for file in files.values()):
            for name, file in files.items():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).symlink_to(file)
            return target
    return None
