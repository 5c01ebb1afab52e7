"""A file that exists while a training runs in the driver's process, so that the next start can name a sudden end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipelines.runtime.files import read_json, write_json

MARKER = "running.json"


@contextmanager
def running_marker(folder: Path) -> Iterator[None]:
    """Keep the marker in ``folder`` for the duration of the block. Only a kill or a power failure leaves it behind."""
    marker = folder / MARKER
    write_json(marker, {"pid": os.getpid(), "oom_kills": _oom_kills(), "boot_time": psutil.boot_time()})
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)


def describe_last_end(folder: Path) -> str:
    """One line on why the last start ended, if it ended without removing its marker; otherwise empty."""
    marker = folder / MARKER
    if not marker.exists():
        return ""
    last = read_json(marker)
    if abs(psutil.boot_time() - last["boot_time"]) > 60:
        cause = "the machine was restarted"
    elif _oom_kills() > last["oom_kills"]:
        cause = "the system has killed a process for lack of memory since; a lower train.batch_size needs less"
    else:
        cause = "it was killed"
    return f"the last start (process {last['pid']}) ended without a message: {cause}"


def _oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory since boot; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
