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
    assert current_commit() == ("", "")
    assert current_commit().tags == {"git_commit": "none", "git_dirty": "false"}


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
