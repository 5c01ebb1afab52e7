"""The CPU cores that this process may use."""

import os
from typing import NamedTuple

import joblib


class Cores(NamedTuple):
    """The number of usable cores, and the reason where it is less than the machine's."""

    number: int
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.number}{f' ({self.reason})' if self.reason else ''}"


def usable_cores() -> Cores:
    """The cores that the CPU affinity (taskset, SLURM) and the cgroup limit (containers) leave to this process."""
    count, machine = joblib.cpu_count(), os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    if count >= machine:
        return Cores(count)
    limit = "the process's CPU affinity" if affinity <= count else "the cgroup's CPU limit"
    if os.environ.get("LOKY_MAX_CPU_COUNT") == str(count):
        limit = "LOKY_MAX_CPU_COUNT"  # joblib's own setting
    return Cores(count, f"of {machine}: {limit}")
