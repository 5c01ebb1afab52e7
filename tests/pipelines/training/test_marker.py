"""The marker of a training in the driver's process: it stays only after a sudden end, whose cause it names."""

import os
import subprocess
import sys

import psutil
import pytest

from pipelines.runtime.files import read_json, write_json
from pipelines.training.marker import MARKER, describe_last_end, running_marker


def test_an_orderly_end_leaves_nothing(tmp_path):
    with running_marker(tmp_path):
        assert read_json(tmp_path / MARKER)["pid"] == os.getpid()
    assert describe_last_end(tmp_path) == ""
    with pytest.raises(RuntimeError), running_marker(tmp_path):
        raise RuntimeError
    assert describe_last_end(tmp_path) == ""


def test_a_killed_process_is_named(tmp_path):
    code = "import os, signal, sys; from pathlib import Path; from pipelines.training.marker import running_marker\n"
    code += "with running_marker(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert killed.returncode == -9
    pid = read_json(tmp_path / MARKER)["pid"]
    assert describe_last_end(tmp_path) == f"the last start (process {pid}) ended without a message: it was killed"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [({"oom_kills": -1}, "for lack of memory"), ({"boot_time": psutil.boot_time() - 3600}, "was restarted")],
)
def test_lack_of_memory_and_a_restart_are_told_from_a_kill(tmp_path, changes, cause):
    with running_marker(tmp_path):
        values = read_json(tmp_path / MARKER)
    write_json(tmp_path / MARKER, values | changes)
    assert cause in describe_last_end(tmp_path)
