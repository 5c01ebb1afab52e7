"""The Python that is forked for tests behaves as the real one."""

import ast
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.warm_python import folder_of_warm_python

PROBE = """
import atexit, json, os, resource, signal, sys
from pipelines import neighbor
atexit.register(print, "the end")
print(json.dumps({
    "name": __name__, "spec": __spec__.name, "arguments": sys.argv, "path": sys.path[0], "folder": os.getcwd(),
    "neighbor": neighbor.__file__, "input": sys.stdin.read(), "environment": dict(os.environ),
    "limit": resource.getrlimit(resource.RLIMIT_FSIZE), "cores": sorted(os.sched_getaffinity(0)),
    "handlers": [str(signal.getsignal(number)) for number in (signal.SIGCHLD, signal.SIGINT)],
}), flush=True)
print("torch" in sys.modules, file=sys.stderr, flush=True)
if sys.argv[-1].startswith("SIG"):
    os.kill(os.getpid(), signal.Signals[sys.argv[-1]])
if "raise" in sys.argv:
    raise ValueError
sys.exit("a reason" if "reason" in sys.argv else len(sys.argv))
"""


# What two workers of Ray have imported before they import torch: one that Ray has started early, and one with an
# environment of its own.
CLUSTER = """
import os, sys
import ray
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
function = ray.remote(lambda: ("torch" in sys.modules, "SOME" in os.environ))
print(ray.get([function.remote(), function.options(runtime_env={"env_vars": {"SOME": "thing"}}).remote()]))
"""

PLACES = """
import os, sys
print("torch" in sys.modules, *(os.readlink(f"/proc/self/ns/{name}") for name in ("net", "mnt")))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A project with these modules."""
    (tmp_path / "pipelines").mkdir()
    modules = {
        "probe": PROBE, "cluster": CLUSTER, "places": PLACES, "wait": "import time; time.sleep(100)",
        "__init__": "", "neighbor": "",
    }  # fmt: skip
    for name, code in modules.items():
        (tmp_path / "pipelines" / f"{name}.py").write_text(code)
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    warm = folder_of_warm_python()
    if warm is None:
        pytest.skip("stages of tests have a Python of their own here")
    return os.environ | {"PATH": f"{warm}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"} | more


def run(folder: Path, *command: str, **more: str) -> tuple[int, dict, bool]:
    """The exit code, what the module says of itself, and whether torch had been imported for it."""
    limit = (2**30, resource.getrlimit(resource.RLIMIT_FSIZE)[1])

    def prepare():
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        # As a shell does for a program in the background.
        signal.signal(signal.SIGINT, signal.SIG_IGN if "background" in command else signal.default_int_handler)

    done = subprocess.run(
        command, cwd=folder, env=environment(**more), input="to the module", capture_output=True, text=True,
        preexec_fn=prepare,
    )  # fmt: skip
    said = json.loads(done.stdout.splitlines()[0]) | {"end": done.stdout.splitlines()[1:]}
    said["environment"].pop("PWD", None)  # a shell sets it, and `python` begins as one
    return done.returncode, said, done.stderr.startswith("True")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((), 1), (("a b", "--c"), 3), (("background",), 2), (("raise",), 1), (("reason",), 1),
        (("SIGTERM",), -signal.SIGTERM), (("SIGKILL",), -signal.SIGKILL), (("SIGINT",), -signal.SIGINT),
    ],
)  # fmt: skip
def test_a_module_is_run_as_by_the_real_python(folder, arguments, status):
    code, said, forked = run(folder, "python", "-m", "pipelines.probe", *arguments, SOME="thing")
    real = run(folder, sys.executable, "-m", "pipelines.probe", *arguments, SOME="thing")
    assert (code, said, False) == real
    assert code == status and forked
    assert said["end"] == (["the end"] if status > 0 or "SIGINT" in arguments else [])


@pytest.mark.slow
@pytest.mark.parametrize("python", ["python", sys.executable])
def test_workers_of_ray_are_forked_if_their_driver_is(folder, python):
    done = subprocess.run(
        [python, "-m", "pipelines.cluster"], cwd=folder, env=environment(), capture_output=True, text=True, check=True
    )
    forked = python == "python"
    assert ast.literal_eval(done.stdout) == [(forked, False), (forked, True)]


@pytest.mark.slow
def test_variables_that_packages_set_on_import_leave_the_fork_as_it_is(folder):
    code = "import os; before = dict(os.environ); import sklearn, torchvision, ray.train.torch; "
    code += "print({name: value for name, value in os.environ.items() if before.get(name) != value})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, forked = run(folder, "python", "-m", "pipelines.probe", **ast.literal_eval(done.stdout))
    assert forked


def test_a_variable_that_packages_read_on_import_is_left_to_the_real_python(folder):
    _, said, forked = run(folder, "python", "-m", "pipelines.probe", OMP_NUM_THREADS="1")
    assert said["environment"]["OMP_NUM_THREADS"] == "1" and not forked


@pytest.mark.slow
def test_a_fork_enters_the_namespaces_of_the_process_that_asked_for_it(folder):
    script = "readlink /proc/self/ns/net /proc/self/ns/mnt; python -m pipelines.places"
    command = ["unshare", "--net", "--mount", "sh", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if "unshare failed" in done.stderr:
        pytest.skip(done.stderr)
    places, inner = done.stdout.split()[:2], done.stdout.split()[2:]
    assert inner == ["True", *places] and places[0] != str(Path("/proc/self/ns/net").readlink()), done.stderr


def test_a_module_ends_with_the_process_that_asked_for_it(folder):
    before = {process.pid for process in psutil.process_iter()}
    asking = subprocess.Popen(["python", "-m", "pipelines.wait"], cwd=folder, env=environment())

    def forked() -> list[psutil.Process]:
        new = [process for process in psutil.process_iter(["cwd"]) if process.pid not in before | {asking.pid}]
        return [process for process in new if process.info["cwd"] == str(folder)]

    end = time.monotonic() + 60
    while not forked():
        assert time.monotonic() < end
        time.sleep(0.05)
    asking.kill()
    asking.wait()
    while forked():
        assert time.monotonic() < end
        time.sleep(0.05)
