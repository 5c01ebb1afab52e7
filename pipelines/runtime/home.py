"""The home of all lasting state: database, artifacts, checkpoints, downloads and locks.

``dvc exp run --temp`` and queued experiments run in a temporary clone, from which DVC_ROOT points to the user's
repository; state that lay in the clone would vanish with it.
"""

import os
import subprocess
from pathlib import Path


def home() -> Path:
    """The user's repository: DVC_ROOT where DVC set it, else git's top folder, else the current folder."""
    if "DVC_ROOT" in os.environ:
        return Path(os.environ["DVC_ROOT"]).resolve()
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    except FileNotFoundError:  # no git, as in the tracking server's image
        return Path.cwd()
    return Path(top.stdout.strip()).resolve() if top.returncode == 0 else Path.cwd()


def state_dir(*parts: str) -> Path:
    """``state/<parts>`` of the home, absolute, made if missing."""
    path = home().joinpath("state", *parts)
    path.mkdir(parents=True, exist_ok=True)
    return path
