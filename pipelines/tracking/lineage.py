"""Where a result came from: git commit, uncommitted changes, the digest of the code, the versions of libraries."""

import platform
import subprocess
from importlib import metadata
from typing import NamedTuple


class Commit(NamedTuple):
    """The commit that was checked out and what differed from it; ``sha`` is empty outside git."""

    sha: str
    diff: str

    @property
    def tags(self) -> dict[str, str]:
        return {"git_commit": self.sha or "none", "git_dirty": str(bool(self.diff)).lower()}


def current_commit() -> Commit:
    """The commit of the current folder, and how the folder differs from it; new files count where they are code."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace").stdout

    sha = git("rev-parse", "--verify", "--quiet", "HEAD").strip()
    diff = git("diff", "HEAD", "--", ".", ":!dvc.lock")
    new = git("ls-files", "--others", "--exclude-standard", "--", "stn", "pipelines", "variants").splitlines()
    return Commit(sha, diff + "".join(git("diff", "--no-index", "--", "/dev/null", file) for file in new))


def libraries() -> dict[str, str]:
    """The versions of Python and of the libraries that a result may depend on."""
    names = ("torch", "numpy", "ray", "optuna", "mlflow", "dvc")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
