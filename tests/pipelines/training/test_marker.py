"""The marker of a training in the driver's process stays after a sudden end and names its cause."""

import os
import subprocess
import sys

import pytest

from pipelines.runtime.files import read_json, write_json
from pipelines.training.marker import MARKER, running_marker, take_last_end


def test_an_orderly_end_leaves_nothing(tmp_path):
    with running_marker(tmp_path):
        assert read_json(tmp_path / MARKER)["pid"] == os.getpid()
    assert take_last_end(tmp_path) == ""
    with pytest.raises(RuntimeError), running_marker(tmp_path):
        raise RuntimeError
    assert take_last_end(tmp_path) == ""


def test_a_killed_process_is_named(tmp_path):
    code = "import os, signal, sys; from pathlib import Path; from pipelines.training.marker import running_marker\n"
    code += "with running_marker(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert killed.returncode == -9
    pid = read_json(tmp_path / MARKER)["pid"]
    assert take_last_end(tmp_path) == f"the last start (process {pid}) ended without a message: it was killed"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [({"oom_kills": -1}, "for lack of memory"), ({"boot": "another"}, "was restarted")],
)
def test_lack_of_memory_and_a_restart_are_distinguished_from_a_kill(tmp_path, changes, cause):
    with running_marker(tmp_path):
        values = read_json(tmp_path / MARKER)
    write_json(tmp_path / MARKER, values | changes)
    assert cause in take_last_end(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"{}", b"null", b'{"pid": 1'])
def test_a_damaged_marker_stops_nothing(tmp_path, content):
    (tmp_path / MARKER).write_bytes(content)
    assert take_last_end(tmp_path) == "the last start ended without a message"
    assert take_last_end(tmp_path) == ""
