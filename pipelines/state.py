"""Where state lives: database, artifacts, checkpoints, downloads and locks have one home for all work trees.

``dvc exp run --temp`` and queued experiments run in a temporary clone, from which DVC_ROOT points to the user's
repository; state that lay in the clone would vanish with it.
"""

import hashlib
import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.errors import WorldError


def home() -> Path:
    """The user's repository: DVC_ROOT where DVC set it, else git's top folder, else the current folder."""
    if "DVC_ROOT" in os.environ:
        return Path(os.environ["DVC_ROOT"]).resolve()
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    return Path(top.stdout.strip()).resolve() if top.returncode == 0 else Path.cwd()


def state_dir(*parts: str) -> Path:
    """``state/<parts>`` of the home, absolute, made if missing."""
    path = home().joinpath("state", *parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_json(path: Path, value) -> None:
    """Write JSON beside ``path`` and move it into place, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(path)


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def key_of(*parts) -> str:
    """A short name for everything that ``parts`` (JSON values) say."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def locked(name: str, wait: bool = True):
    """Hold the lock ``name``; where another process holds it, say which and wait for it.

    Raises:
        WorldError: another process holds it, and ``wait`` is False.
    """
    path = state_dir("locks") / f"{name}.lock"
    lock = FileLock(path, timeout=0)
    holder = path.with_suffix(".pid")
    try:
        lock.acquire()
    except Timeout:
        try:
            pid = holder.read_text().strip()
        except FileNotFoundError:  # held for so short a time that it is not written yet
            pid = "unknown"
        if not wait:
            raise WorldError(f"process {pid} is at work on the same thing ({name}); wait for it or stop it") from None
        print(f"process {pid} is at work on the same thing ({name}); waiting for it to finish", flush=True)
        lock.acquire(timeout=-1)
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
