"""The home of all lasting state: database, artifacts, checkpoints, downloads and locks.

``dvc exp run --temp`` and queued experiments run in a temporary clone, which DVC deletes. State therefore lies in the
user's repository, whose path DVC puts into DVC_ROOT.
"""

import os
import subprocess
from pathlib import Path


def home() -> Path:
    """The user's project: DVC_ROOT if it is set, else the nearest folder with ``.dvc``, else git's top folder.

    The project can be a folder of a larger git repository. Without DVC and git it is the current folder.
    """
    if "DVC_ROOT" in os.environ:
        return Path(os.environ["DVC_ROOT"]).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return folder
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    except FileNotFoundError:  # the tracking server's image has no git
        return Path.cwd()
    return Path(top.stdout.strip()).resolve() if top.returncode == 0 else Path.cwd()


def state_dir(*parts: str) -> Path:
    """The absolute path of ``state/<parts>`` in the home; the folder is created if missing."""
    path = home().joinpath("state", *parts)
    path.mkdir(parents=True, exist_ok=True)
    return path
