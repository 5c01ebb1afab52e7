"""Where a result came from: git commit, uncommitted changes and versions of libraries."""

import os
import platform
import subprocess
from importlib import metadata
from typing import NamedTuple


class Commit(NamedTuple):
    """The commit that was checked out and the changes that it lacks.

    Args:
        sha: SHA-1 of the commit; empty outside git and in a repository without a commit.
        diff: uncommitted changes.
        problem: git's reason why it could not tell; empty if it could.
    """

    sha: str
    diff: str
    problem: str = ""

    @property
    def name(self) -> str:
        """The commit's SHA-1; ``none`` if there is none, ``unknown`` if git could not tell."""
        return "unknown" if self.problem else self.sha or "none"

    @property
    def dirty(self) -> str:
        """``true`` if anything differs from the commit, else ``false``; ``unknown`` if git could not tell."""
        return "unknown" if self.problem else str(bool(self.diff)).lower()

    @property
    def tags(self) -> dict[str, str]:
        """The commit as MLflow tags."""
        return {"git_commit": self.name, "git_dirty": self.dirty}


def current_commit() -> Commit:
    """The commit of the current folder, with its uncommitted changes.

    The changes leave out ``dvc.lock``, which every run rewrites, and include new files of code, which git would ignore.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=os.environ | {"LC_ALL": "C"}
        )

    try:
        inside = git("rev-parse", "--git-dir")
    except FileNotFoundError:
        return Commit("", "", "git is not installed")
    if inside.returncode:
        reason = next(iter(inside.stderr.strip().splitlines()), "git failed").removeprefix("fatal: ")
        return Commit("", "", "" if reason.startswith("not a git repository") else reason)
    sha = git("rev-parse", "--verify", "--quiet", "HEAD").stdout.strip()
    diff = git("diff", "--relative", "HEAD", "--", ".", ":!dvc.lock").stdout if sha else ""
    code = ("stn", "pipelines", "own_networks", "variants")
    new = git("ls-files", "--others", "--exclude-standard", "--", *code).stdout.splitlines()
    return Commit(sha, diff + "".join(git("diff", "--no-index", "--", "/dev/null", file).stdout for file in new))


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that a result may depend on."""
    names = ("torch", "numpy", "timm", "ray", "optuna", "mlflow", "dvc")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
