"""Where a Ray cluster on this machine keeps its sockets, and how it starts Python in any folder."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from pipelines.runtime import ray_places
from pipelines.runtime.errors import ExternalError, UserError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch) -> dict[str, int]:
    """Free bytes of folders; 1 GiB if a folder is not listed."""
    sizes: dict[str, int] = {}
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(ray_places.shutil, "disk_usage", lambda place: Usage(0, 0, sizes.get(place, 2**30)))
    return sizes


def test_rays_own_choice_stays_where_it_is_usable(free, monkeypatch, tmp_path):
    assert ray_places.session_folder() is None
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert ray_places.session_folder() == f"/tmp/ray-{os.getuid()}"


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_that_is_too_long_for_sockets_is_replaced(free, monkeypatch, tmp_path, variable):
    folder = tmp_path / ("x" * 62)
    folder.mkdir()
    monkeypatch.setenv(variable, str(folder))
    assert ray_places.session_folder() == f"/tmp/ray-{os.getuid()}"
    free["/tmp"] = 0
    assert ray_places.session_folder() == f"/var/tmp/ray-{os.getuid()}"


def test_where_no_folder_is_usable_each_reason_is_said(free, monkeypatch):
    free |= {"/tmp": 0, "/var/tmp": 10**6}

    def refuse(dir):
        raise OSError(30, os.strerror(30), dir)

    monkeypatch.setattr(ray_places.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ExternalError, match=r"RAY_TMPDIR: .*/tmp: less than 100 MiB free; .*/dev/shm: Read-only"):
        ray_places.session_folder()


def test_the_longest_socket_fits():
    """Ray's names, with a process id of seven digits; raylets of one machine number theirs."""
    name = "/session_2026-11-26_10-17-21_728019_4194304/sockets/plasma_store"
    assert len(name) < len(ray_places.LONGEST_SOCKET)


def test_a_python_with_special_characters_is_quoted(monkeypatch):
    assert ray_places.worker_environment(None) == {} == ray_places.worker_environment("10.0.0.1:6379")
    monkeypatch.setattr(sys, "executable", "/home/kim/it's my #1 project/.venv/bin/python")
    quoted = ray_places.worker_environment(None)["py_executable"]
    said = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, text=True).stdout
    assert said == sys.executable
    with pytest.raises(UserError, match=r"RAY_ADDRESS: '10.0.0.1:6379' given; Ray cannot start workers with /home/kim"):
        ray_places.worker_environment("10.0.0.1:6379")


CODE = """
import sys
import ray
from pipelines.training.cluster import connected
with connected():
    function = ray.remote(lambda: sys.executable)
    assert not ray._private.worker._global_node.webui_url, "with such a TMPDIR, a dashboard holds Ray up for a minute"
    print(ray.get(function.options(runtime_env={"env_vars": {"A": "b"}}).remote(), timeout=100))
"""


@pytest.mark.slow
def test_ray_starts_workers_in_a_folder_with_special_characters(tmp_path):
    """Ray Train sets variables for its workers like this. TMPDIR is too long for sockets."""
    project = tmp_path / "it's my #1 project? é"
    packages = next(Path(place) for place in sys.path if place.endswith("site-packages"))
    (project / ".venv/bin").mkdir(parents=True)
    python = project / ".venv/bin/python"
    python.symlink_to(Path(sys.executable).resolve())
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", project / ".venv/pyvenv.cfg")
    folder = project / ".venv" / packages.relative_to(sys.prefix)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(packages)
    long = tmp_path / ("x" * 62)
    long.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VIRTUAL_ENV"))}
    env |= {"PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(long)}
    done = subprocess.run([python, "-c", CODE], env=env, cwd=project, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip().endswith(str(python)), done.stderr[-2000:]
