"""Where a result came from: the commit, what differed from it, and the digest of the code that ran."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.runtime.keys import digest_code
from pipelines.tracking.lineage import current_commit


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, in no repository; git looks no further up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_outside_git_nothing_is_claimed(folder):
    assert current_commit() == ("", "")
    assert current_commit().tags == {"git_commit": "none", "git_dirty": "false"}


def test_the_commit_and_what_differs_from_it(folder):
    git("init", "-q")
    for name in ("params.yaml", "dvc.lock"):
        (folder / name).write_text("before\n")
    git("add", "-A")
    git("commit", "-q", "-m", "A start")
    # dvc.lock changes with every run, and a file that git does not know is in no commit: neither makes it dirty.
    (folder / "dvc.lock").write_text("after\n")
    (folder / "notes.txt").write_text("mine\n")
    clean = current_commit()
    assert clean.tags == {"git_commit": git("rev-parse", "HEAD"), "git_dirty": "false"}

    (folder / "params.yaml").write_bytes("after, Grün\n".encode("latin-1"))
    git("add", "params.yaml")  # staged is not committed
    dirty = current_commit()
    assert dirty.sha == clean.sha and dirty.tags["git_dirty"] == "true"
    assert "-before" in dirty.diff and "+after" in dirty.diff and "dvc.lock" not in dirty.diff

    git("checkout", "-q", "HEAD", "--", "params.yaml")
    subprocess.run(["git", "apply"], input=dirty.diff.encode("utf-8"), check=True)
    assert Path("params.yaml").read_text().startswith("after"), "the difference is not one that git can apply"


def test_the_digest_follows_the_code_named_and_no_other(folder, monkeypatch):
    for name in ("inside", "outside"):
        package = folder / f"sample_{name}"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "part.py").write_text("value = 1\n")
    (folder / "sample_inside_too.py").write_text("value = 1\n")
    modules = ("sample_inside.part", "sample_outside.part", "sample_inside_too")
    monkeypatch.syspath_prepend(folder)
    try:
        for name in modules:
            importlib.import_module(name)
        first = digest_code("sample_inside")
        # A name that only begins alike is another module.
        for other in ("sample_outside/part.py", "sample_inside_too.py"):
            (folder / other).write_text("value = 2\n")
        assert digest_code("sample_inside") == first
        (folder / "sample_inside/part.py").write_text("value = 2\n")
        assert digest_code("sample_inside") != first
        assert digest_code("sample_inside.part") != digest_code("sample_inside")
    finally:
        for name in [name for name in sys.modules if name.startswith("sample_")]:
            del sys.modules[name]
