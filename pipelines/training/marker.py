"""A file that exists while a training runs in the driver's process. The next start reports a kill by it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import read_json, write_json

MARKER = "running.json"


@contextmanager
def running_marker(folder: Path) -> Iterator[None]:
    """Keep the marker in ``folder`` for the duration of the block. Only a kill or a power failure leaves it behind."""
    marker = folder / MARKER
    write_json(marker, {"pid": os.getpid(), "boot": _boot(), "oom_kills": _oom_kills()})
    try:
        yield
    finally:
        with suppress(OSError):  # must not hide why the training ended
            marker.unlink()


def take_last_end(folder: Path) -> str:
    """Say in one line why the last start ended; empty without a marker. Deletes the marker."""
    marker = folder / MARKER
    if not marker.exists():
        return ""
    try:
        last = read_json(marker)
        pid, boot, oom_kills = last["pid"], last["boot"], last["oom_kills"]
    except (ExternalError, KeyError, TypeError):  # a power failure can leave an empty file
        return "the last start ended without a message"
    finally:
        with suppress(OSError):
            marker.unlink()
    if boot != _boot():
        cause = "it ran on another host, or this one was restarted"
    elif _oom_kills() > oom_kills:
        cause = "the system has killed a process for lack of memory since; a lower train.batch_size needs less"
    else:
        cause = "it was killed"
    return f"the last start (process {pid}) ended without a message: {cause}"


def _boot() -> str:
    """Names this host and its last boot."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()}"
    return socket.gethostname()


def _oom_kills() -> int:
    """The number of processes that the kernel has killed for lack of memory since boot; 0 if it is unknown."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
