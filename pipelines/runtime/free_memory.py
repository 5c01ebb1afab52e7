"""The memory that this process may still use."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


class Cgroup(NamedTuple):
    """A group of processes with a limit of memory, such as a container; all in bytes."""

    limit: int
    used: int
    file_pages: int


def free_memory() -> int:
    """The bytes of memory that the machine and the cgroups of this process have left.

    Pages of files count as free, because the kernel drops them when memory is short.
    """
    left = (max(0, group.limit - group.used + group.file_pages) for group in _cgroups())
    return min([psutil.virtual_memory().available, *left])


def _cgroups() -> Iterator[Cgroup]:
    """The cgroup of this process and those around it, of both versions, that limit memory."""
    try:
        lines = [line.split(":", 2) for line in OWN_CGROUPS.read_text().splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in lines:
        if controllers == "":  # version 2
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")
        else:
            continue
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                try:
                    values = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                    limit, used = (int((group / name).read_text()) for name in names[:2])
                    yield Cgroup(limit, used, sum(int(values[name]) for name in names[2:]))
                except (OSError, ValueError, KeyError):  # no such file, as in the root, or no limit: the word `max`
                    pass
