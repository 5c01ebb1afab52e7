"""The home of state, files that are never half written, and locks that end with their holder."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import read_json, replace_atomically, write_json
from pipelines.runtime.home import home, state_dir

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, outside any git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def test_the_home_of_state(folder, monkeypatch):
    inner = folder / "clone" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert home() == inner
    subprocess.run(["git", "init", "-q", folder / "clone"], check=True)
    assert home() == folder / "clone"
    # In a temporary clone, DVC_ROOT is the user's repository.
    monkeypatch.setenv("DVC_ROOT", str(folder))
    assert home() == folder
    assert state_dir("a", "b") == folder / "state/a/b" and (folder / "state/a/b").is_dir()


def test_json_that_cannot_be_written_leaves_what_was_there(folder, files_of_at_most):
    path = folder / "made" / "value.json"
    write_json(path, {"a": [1.5, None, "ü"]})
    assert read_json(path) == {"a": [1.5, None, "ü"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})

    with files_of_at_most(1000), pytest.raises(OSError, match=rf"File too large: '{path}'"):
        write_json(path, ["a"] * 1000)
    assert read_json(path) == {"a": [1.5, None, "ü"]} and list(path.parent.iterdir()) == [path]


def test_safetensors_own_exception_names_the_file_too(folder, files_of_at_most):
    with (
        pytest.raises(OSError, match=r"File too large: 'model\.safetensors'"),
        files_of_at_most(1000),
        replace_atomically(Path("model.safetensors")) as beside,
    ):
        save_file({"w": torch.zeros(10_000)}, beside)
    assert not list(folder.iterdir())


def test_json_that_is_cut_off_is_named(folder):
    (folder / "value.json").write_text('{"a": [1, 2')
    with pytest.raises(ExternalError, match=r"value.json: truncated or damaged \(.*\); delete it, and dvc repro"):
        read_json(folder / "value.json")


def test_a_reader_never_sees_half_a_file(folder):
    path, done, seen = folder / "value.json", threading.Event(), set()
    values = [[number] * 40_000 for number in range(30)]
    write_json(path, values[0])

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(len(json.loads(path.read_bytes())))
            except ValueError:
                seen.add("half")

    reader = threading.Thread(target=read)
    reader.start()
    for value in values:
        write_json(path, value)
    done.set()
    reader.join()
    assert seen == {40_000}


HOLD = """
import sys
from pipelines.runtime.locks import hold_lock
with hold_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""


class Holder:
    """A process that takes a lock and holds it until :meth:`release`."""

    def __init__(self, name: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, name], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def release(self) -> str:
        return self.process.communicate("\n", timeout=300)[0].strip()


@pytest.fixture
def hold(folder):
    holders = []

    def start(name: str) -> Holder:
        holders.append(Holder(name))
        return holders[-1]

    yield start
    for holder in holders:
        holder.process.kill()
        holder.process.communicate()


@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_second_process_says_who_holds_the_lock_and_waits_for_it(hold, end):
    first = hold("training")
    assert first.line() == "held"
    second = hold("training")
    message = second.line()
    assert str(first.process.pid) in message and "training" in message and "waiting" in message
    other = hold("another")
    assert other.line() == "held", "it waited for a lock of another name"
    assert second.process.poll() is None
    if end == "done":
        assert first.release() == "left"
    else:
        first.process.send_signal(signal.SIGKILL)
    assert second.line() == "held"
    # The message has the pid of the new holder, not of the killed process.
    third = hold("training")
    assert str(second.process.pid) in third.line()
    assert second.release() == "left"
    assert third.line() == "held"
