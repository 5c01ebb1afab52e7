"""Keys: they depend on every part, and the digest of code on the named files alone."""

import os
import shutil
from pathlib import Path

import pytest

from pipelines.runtime.keys import PROJECT, digest_code, key_of

PLACES = ("stn", "pipelines/training/trainer.py")
FILES = ("stn/__init__.py", "stn/muon.py", "stn/transforms/affine.py", "pipelines/training/trainer.py")
BESIDE = ("stn_more.py", "pipelines/training/run.py", "pipelines/training/trainer.py.orig", "params.yaml")
IGNORED = (
    "stn/.muon.py.swp", "stn/muon.py~", "stn/.ipynb_checkpoints/x.py", "stn/transforms/.ipynb_checkpoints/x.py",
    "stn/__pycache__/muon.cpython-313.pyc", "stn/.DS_Store", "stn/.#muon.py",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path) -> Path:
    """A small project with code, files beside it, and this project's ``.dvcignore``."""
    for name in (*FILES, *BESIDE):
        write(tmp_path / name, "value = 1\n")
    shutil.copy(PROJECT / ".dvcignore", tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_key_depends_on_every_part_and_on_no_order_of_names():
    base = key_of({"a": 1, "b": [1, 2]}, "digest")
    assert key_of({"b": [1, 2], "a": 1}, "digest") == base
    changed = [({"a": 2, "b": [1, 2]}, "digest"), ({"a": 1, "b": [2, 1]}, "digest"), ({"a": 1, "b": [1, 2]}, "other")]
    assert len({base, *(key_of(*parts) for parts in changed)}) == 4


def test_the_digest_changes_with_each_named_file_and_with_no_other(tree):
    base = digest_code(*PLACES, root=tree)
    for name in FILES:
        write(tree / name, "value = 2\n")
        assert digest_code(*PLACES, root=tree) != base, name
        write(tree / name, "value = 1\n")
    for name in BESIDE:
        write(tree / name, "value = 2\n")
    assert digest_code(*PLACES, root=tree) == base
    assert digest_code("stn", root=tree) != base


def test_the_digest_changes_with_the_names_of_files(tree):
    base = digest_code(*PLACES, root=tree)
    (tree / "stn/muon.py").rename(tree / "stn/optimizer.py")
    renamed = digest_code(*PLACES, root=tree)
    (tree / "stn/optimizer.py").unlink()
    assert len({base, renamed, digest_code(*PLACES, root=tree)}) == 3


def test_files_that_dvcignore_names_do_not_count(tree):
    base = digest_code(*PLACES, root=tree)
    for name in IGNORED:
        write(tree / name, "value = 2\n")
    assert digest_code(*PLACES, root=tree) == base


def test_the_digest_does_not_depend_on_where_the_tree_lies(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(tree, other)
    for name in FILES:
        os.utime(other / name, (0, 0))
    assert digest_code(*PLACES, root=other) == digest_code(*PLACES, root=tree)


def test_another_host_has_the_same_digest_without_dvcignore(tree):
    """Installed code comes without that file; only ``__pycache__`` is added there."""
    base = digest_code(*PLACES, root=tree)
    (tree / ".dvcignore").unlink()
    write(tree / "stn/__pycache__/muon.cpython-313.pyc", "compiled")
    assert digest_code(*PLACES, root=tree) == base


def test_the_default_root_is_this_project():
    assert digest_code("stn") == digest_code("stn", root=PROJECT) != digest_code("pipelines")
