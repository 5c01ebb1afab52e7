"""Locks among processes that share a home; a lock ends with the process that holds it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.home import state_dir


@contextmanager
def hold_lock(name: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock ``name`` within the block. If another process holds it, print its pid and wait.

    Raises:
        ExternalError: another process holds it, and ``wait`` is False.
    """
    path = state_dir("locks") / f"{name}.lock"
    lock = FileLock(path, timeout=0)
    holder = path.with_suffix(".pid")
    try:
        lock.acquire()
    except Timeout:
        # Without its pid, the holder has only just acquired the lock.
        pid = (holder.read_text().strip() if holder.exists() else "") or "unknown"
        if not wait:
            raise ExternalError(f"process {pid} is working on the same task ({name}); wait for it or stop it") from None
        print(f"process {pid} is working on the same task ({name}); waiting for it to finish", flush=True)
        lock.acquire(timeout=-1)
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
