"""Locks that processes of one home hold against one another."""

import os
from contextlib import contextmanager

from filelock import FileLock, Timeout

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.home import state_dir


@contextmanager
def locked(name: str, wait: bool = True):
    """Hold the lock ``name``; where another process holds it, say which and wait for it.

    Raises:
        ExternalError: another process holds it, and ``wait`` is False.
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
            raise ExternalError(
                f"process {pid} is at work on the same thing ({name}); wait for it or stop it"
            ) from None
        print(f"process {pid} is at work on the same thing ({name}); waiting for it to finish", flush=True)
        lock.acquire(timeout=-1)
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
