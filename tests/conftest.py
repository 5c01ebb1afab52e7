"""Fixtures shared by all tests: throwaway copies of the project, and one run of the demo for the whole session."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.servers import make_database, postgresql_server, s3  # noqa: F401 (fixtures)
from tests.warm_python import folder_of_warm_python

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # tests share the cores; set before a test imports torch


# The files that take longest come first. A process that starts one of them last would run alone at the end.
# test_sharing needs the demo, and would wait for it right behind test_demo.
LONG = (
    "training/test_run.py", "test_hosts.py", "test_demo.py", "test_team_server.py", "tuning/test_run.py",
    "test_sharing.py", "test_scoring.py", "test_outbox.py", "test_queue.py", "test_earlier_store.py",
    "test_settings.py", "test_faults.py", "test_backup.py", "test_params.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list) -> None:
    """Run long files first, for ``pytest -n … --dist loadfile --no-loadscope-reorder``."""

    def place(item) -> int:
        return next((i for i, name in enumerate(LONG) if item.path.as_posix().endswith(f"/{name}")), len(LONG))

    items.sort(key=place)


@pytest.fixture
def files_of_at_most():
    """Within ``files_of_at_most(n)`` the system refuses to write more than n bytes to a file, as to a full disk."""

    @contextlib.contextmanager
    def limit(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


class SmallDisk:
    """A file system of its own at a folder; it holds 64 MiB."""

    def __init__(self, folder: Path):
        self.folder, self.ballast = folder, folder / "ballast"

    def fill(self) -> None:
        """Leave no room on it."""
        with self.ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def clear(self) -> None:
        """Make room again."""
        self.ballast.unlink()


@pytest.fixture
def small_disk():
    """Mounts a :class:`SmallDisk` at a folder; the test is skipped where this process may not."""
    mounted = []

    def mount(folder: Path) -> SmallDisk:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"mount: {done.stderr}")
        mounted.append(folder)
        return SmallDisk(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


OF_OTHERS = ("MLFLOW_", "DVC_", "RAY_", "OPTUNA_", "AWS_", "CHECKPOINT_", "PG", "MAKE", "MFLAGS")  # variables


class Project:
    """A copy of this project in a git repository of its own, with its own state, to run commands in."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output = ""  # of the demo, where it ran
        self.copy = folder  # of the demo, to be copied while other tests use the demo
        self.env = {
            name: value
            for name, value in os.environ.items()
            # MAKE…: a make under `make test` would tell its folder, and take over that one's variables.
            if not name.startswith(OF_OTHERS)
        }
        self.env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}

    def copied(self, folder: Path) -> "Project":
        """A copy of it at ``folder``, with what its stages have made so far."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def run(
        self, *command: str, check: bool = True, env: dict | None = None, timeout: float = 2400, warm: bool = True
    ) -> subprocess.CompletedProcess:
        """Run a command there; its standard output and error are kept together in ``stdout``.

        Args:
            command, check, env, timeout: as of :func:`subprocess.run`; ``env`` is added to the environment.
            warm: stages are forked from a process that has imported their packages (tests/warm_python.py).
        """
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(warm) | (env or {}), timeout=timeout, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done

    def start(self, *command: str, warm: bool = False) -> subprocess.Popen:
        """Start a command there, in a process group of its own, and do not wait for it; ``warm`` as of :meth:`run`."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self._environment(warm), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def processes(self, name: str) -> list[psutil.Process]:
        """Processes that were started in its folder and have ``name`` in their command, or as the title of a worker."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):  # None where this process may not look
            if process.info["cwd"] == str(self.folder) and name in " ".join(process.info["cmdline"] or ()):
                found.append(process)
        return found

    def run_queue(self, *names: str) -> list[str]:
        """Run the queued experiments of DVC in two jobs. Those named must succeed; returns the log of each."""
        # The workers keep the output open and outlive the experiments: a pipe would not end with this command.
        start = ("dvc", "queue", "start", "--jobs", "2")
        subprocess.run(start, cwd=self.folder, env=self._environment(True), check=True, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 1200
        while True:
            time.sleep(3)
            status = self.run("dvc", "queue", "status").stdout
            ended = dict(re.findall(rf"\b({'|'.join(names)})\b.*\b(Success|Failed)\b", status))
            if len(ended) == len(names) or time.monotonic() > deadline:
                break
        logs = [self.run("dvc", "queue", "logs", name, check=False).stdout for name in names]
        self.run("dvc", "queue", "stop", "--kill", check=False)
        assert ended == dict.fromkeys(names, "Success"), (status, *logs)
        return logs

    def _environment(self, warm: bool) -> dict[str, str]:
        folder = folder_of_warm_python() if warm else None
        return self.env | ({"PATH": f"{folder}:{self.env['PATH']}"} if folder else {})

    def stage(self, name: str, *arguments: str, **options):
        """Run ``python -m pipelines.<name>`` there."""
        return self.run("python", "-m", f"pipelines.{name}", *arguments, **options)

    def command(self, name: str, *arguments: str, **options):
        """Run ``python -m pipelines.commands.<name>`` there."""
        return self.stage(f"commands.{name}", *arguments, **options)

    def commit(self, message: str) -> None:
        """Commit everything, with an identity of its own."""
        self.run("git", "add", "-A")
        identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false")
        self.run("git", *identity, "commit", "-q", "-m", message)

    def set(self, *assignments: str) -> None:
        """Set values of its params.yaml, ``section.key=value`` each."""
        self.stage("params", *assignments)


def copy_project(folder: Path) -> Project:
    """A copy of what git would commit now, as the first commit of a new repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    project = Project(folder)
    project.run("git", "init", "-q", "-b", "main")
    project.commit("A copy to test")
    return project


@pytest.fixture(scope="module")
def copy_of_project(tmp_path_factory) -> Project:
    """A throwaway copy of the project that the tests of a module share."""
    return copy_project(tmp_path_factory.mktemp("project") / "project")


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[[], Project]:
    """Makes throwaway copies of the project."""
    made = 0

    def make() -> Project:
        nonlocal made
        made += 1
        return copy_project(tmp_path / f"project-{made}")

    return make


@pytest.fixture
def project(make_project) -> Project:
    """One throwaway copy of the project."""
    return make_project()


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Project:
    """A copy in which ``make demo``'s script has run; ``demo.output`` is what it printed. Shared: change nothing.

    Its params.yaml is one that a user has edited, for data that the demo must not touch. There is one for all processes
    that run tests at once.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    project, output = Project(folder / "demo/project"), folder / "demo/output"
    with FileLock(folder / "demo.lock"):
        if not output.exists():
            copy_project(project.folder)
            params = project.folder / "params.yaml"
            params.write_text(params.read_text().replace("source: data/raw", "source: /data/of/the/users/own"))
            project.commit("A user's own data")
            printed = project.run("tools/demo.sh", warm=False).stdout
            shutil.copytree(project.folder, folder / "demo/copy", symlinks=True)
            output.write_text(printed)
    project.output, project.copy = output.read_text(), folder / "demo/copy"
    return project


@pytest.fixture
def browser():
    """Debian's chromium, of desktop size and without a window."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in programs.values():
        pytest.skip("no browser here: Debian's packages chromium and chromium-driver have one")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"] or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1600"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    yield driver
    driver.quit()
