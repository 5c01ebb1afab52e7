"""usable_cores: the CPU affinity and the container's limit count, and the reason is named."""

import os
import subprocess
import sys

import pytest

from pipelines.runtime import cores
from pipelines.runtime.cores import usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_the_affinity_of_the_process_counts():
    """In a process of its own, as ``taskset`` starts it."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from pipelines.runtime.cores import usable_cores; print(usable_cores())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    machine = os.cpu_count() or 1
    assert said == ("1" if machine == 1 else f"1 (of {machine}: the process's CPU affinity)")


def test_a_containers_limit_counts(monkeypatch):
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores.joblib, "cpu_count", lambda: 3)
    assert usable_cores() == (3, "of 8: the cgroup's CPU limit")


def test_the_limit_that_joblib_takes_from_a_variable_is_named(monkeypatch):
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert usable_cores() == (1, "of 8: LOKY_MAX_CPU_COUNT")


def test_without_a_limit_no_reason_is_named(monkeypatch):
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(cores.joblib, "cpu_count", lambda: 3)
    assert usable_cores() == (3, "") and str(usable_cores()) == "3"
