"""Where a result came from: git commit, uncommitted changes and versions of libraries."""

import platform
import subprocess
from importlib import metadata
from typing import NamedTuple


class Commit(NamedTuple):
    """The commit that was checked out and the changes that it lacks; ``sha`` is empty outside git."""

    sha: str
    diff: str

    @property
    def name(self) -> str:
        """The commit's SHA-1, ``none`` outside git."""
        return self.sha or "none"

    @property
    def dirty(self) -> str:
        """``true`` if anything differs from the commit, else ``false``."""
        return str(bool(self.diff)).lower()

    @property
    def tags(self) -> dict[str, str]:
        """The commit as MLflow tags."""
        return {"git_commit": self.name, "git_dirty": self.dirty}


def current_commit() -> Commit:
    """The commit of the current folder, with its uncommitted changes.

    The changes leave out ``dvc.lock``, which every run rewrites, and include new files of code, which git would ignore.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace").stdout

    sha = git("rev-parse", "--verify", "--quiet", "HEAD").strip()
    diff = git("diff", "HEAD", "--", ".", ":!dvc.lock")
    new = git("ls-files", "--others", "--exclude-standard", "--", "stn", "pipelines", "variants").splitlines()
    return Commit(sha, diff + "".join(git("diff", "--no-index", "--", "/dev/null", file) for file in new))


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that a result may depend on."""
    names = ("torch", "numpy", "ray", "optuna", "mlflow", "dvc")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
