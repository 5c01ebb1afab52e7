"""Fixtures shared by all tests: throwaway copies of the project, and one run of the demo for the whole session."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Project:
    """A copy of this project in a git repository of its own, with its own state, to run commands in."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output = ""  # of the demo, where it ran
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "DVC_", "RAY_", "OPTUNA_"))
        }
        self.env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}

    def run(self, *command: str, check: bool = True, env: dict | None = None, timeout: float = 900):
        """Run a command there; its standard output and error are kept together in ``stdout``."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.env | (env or {}), timeout=timeout, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done

    def start(self, *command: str) -> subprocess.Popen:
        """Start a command there, in a process group of its own, and do not wait for it."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def stage(self, name: str, *arguments: str, **options):
        """Run ``python -m pipelines.<name>`` there."""
        return self.run(sys.executable, "-m", f"pipelines.{name}", *arguments, **options)

    def commit(self, message: str) -> None:
        """Commit everything there, whoever git thinks is at work."""
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

    Its params.yaml is one that a user has edited, for data that the demo must not touch.
    """
    project = copy_project(tmp_path_factory.mktemp("demo") / "project")
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("source: data/raw", "source: /data/of/the/users/own"))
    project.commit("A user's own data")
    project.output = project.run("tools/demo.sh").stdout
    return project
