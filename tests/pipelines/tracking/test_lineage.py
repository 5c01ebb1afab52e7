"""Where a result came from: the commit and the uncommitted changes."""

import subprocess
from pathlib import Path

import pytest

from pipelines.tracking.lineage import current_commit


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, outside any git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_outside_git_there_is_no_commit(folder):
    assert current_commit() == ("", "", "")
    assert current_commit().tags == {"git_commit": "none", "git_dirty": "false"}


def test_before_the_first_commit_there_is_none(folder):
    git("init", "-q")
    (folder / "params.yaml").write_text("mine\n")
    assert current_commit().tags == {"git_commit": "none", "git_dirty": "false"}


@pytest.mark.parametrize(("variable", "value", "reason"), [
    ("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1", "dubious ownership"), ("PATH", "/nowhere", "git is not installed"),
])  # fmt: skip
def test_where_git_cannot_tell_the_commit_is_unknown(folder, monkeypatch, variable, value, reason):
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "A start")
    monkeypatch.setenv(variable, value)
    commit = current_commit()
    assert reason in commit.problem and "\n" not in commit.problem
    assert commit.tags == {"git_commit": "unknown", "git_dirty": "unknown"}


def test_a_detached_head_and_a_shallow_clone_have_their_commit(folder, monkeypatch):
    git("init", "-q", "first")
    monkeypatch.chdir(folder / "first")
    for message in ("one", "two"):
        git("commit", "-q", "--allow-empty", "-m", message)
    git("checkout", "-q", "--detach", "HEAD~1")
    assert current_commit() == (git("rev-parse", "HEAD"), "", "")
    git("clone", "-q", "--depth", "1", f"file://{folder}/first", "../shallow")
    monkeypatch.chdir(folder / "shallow")
    assert current_commit() == (git("rev-parse", "HEAD"), "", "")


def test_the_commit_and_its_uncommitted_changes(folder):
    git("init", "-q")
    for name in ("params.yaml", "dvc.lock"):
        (folder / name).write_text("before\n")
    git("add", "-A")
    git("commit", "-q", "-m", "A start")
    # Neither dvc.lock, which every run rewrites, nor a new file that is not code makes the work tree dirty.
    (folder / "dvc.lock").write_text("after\n")
    (folder / "notes.txt").write_text("mine\n")
    clean = current_commit()
    assert clean.tags == {"git_commit": git("rev-parse", "HEAD"), "git_dirty": "false"}

    (folder / "params.yaml").write_bytes("after, Grün\n".encode("latin-1"))
    git("add", "params.yaml")  # staged, not committed
    dirty = current_commit()
    assert dirty.sha == clean.sha and dirty.tags["git_dirty"] == "true"
    assert "-before" in dirty.diff and "+after" in dirty.diff and "dvc.lock" not in dirty.diff

    git("checkout", "-q", "HEAD", "--", "params.yaml")
    subprocess.run(["git", "apply"], input=dirty.diff.encode("utf-8"), check=True)
    assert Path("params.yaml").read_text().startswith("after"), "git cannot apply the diff"


def test_a_new_file_of_code_is_part_of_the_changes(folder):
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "A start")
    (folder / "variants").mkdir()
    (folder / "variants/mine.yaml").write_text("transformer: null\n")
    assert "+transformer: null" in current_commit().diff and current_commit().dirty == "true"
