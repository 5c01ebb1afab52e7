"""The home of all lasting state: database, artifacts, checkpoints, downloads and locks.

``dvc exp run --temp`` and queued experiments run in a temporary clone, which DVC deletes. State therefore lies in the
user's repository, whose path DVC puts into DVC_ROOT.
"""

import os
import subprocess
from pathlib import Path


def home() -> Path:
    """The user's project: the nearest folder upward, from DVC_ROOT or here, that has ``.dvc`` and ``variants``.

    ``experiments/paper`` is a DVC project without ``variants``: its home is the project that it lies in. The project
    can be a folder of a larger git repository. If there is none, the home is DVC_ROOT, else git's top folder, else the
    current folder.
    """
    root = os.environ.get("DVC_ROOT")
    start = Path(root).resolve() if root else Path.cwd()
    for folder in (start, *start.parents):
        if (folder / ".dvc").is_dir() and (folder / "variants").is_dir():
            return folder
    return start if root else _git_top() or start


def _git_top() -> Path | None:
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    except FileNotFoundError:  # the tracking server's image has no git
        return None
    return Path(top.stdout.strip()).resolve() if top.returncode == 0 else None


def state_dir(*parts: str) -> Path:
    """The absolute path of ``state/<parts>`` in the home; the folder is created if missing."""
    path = home().joinpath("state", *parts)
    path.mkdir(parents=True, exist_ok=True)
    return path
