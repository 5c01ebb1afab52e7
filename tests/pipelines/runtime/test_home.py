"""home: the nearest DVC project, also within a larger git repository."""

import subprocess

import pytest

from pipelines.runtime.home import home


@pytest.fixture
def outer(tmp_path, monkeypatch):
    """A git repository that holds a DVC project in ``team/stn``."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for folder in (".dvc", "variants", "notebooks", "experiments/paper/.dvc"):
        (tmp_path / "team/stn" / folder).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("folder", ["team/stn", "team/stn/notebooks", "team/stn/experiments/paper"])
def test_a_project_in_a_larger_repository_has_its_own_home(outer, monkeypatch, folder):
    monkeypatch.chdir(outer / folder)
    assert home() == outer / "team/stn"


def test_dvc_names_the_home_of_a_temporary_work_tree(outer, monkeypatch):
    monkeypatch.chdir(outer / "team/stn")
    monkeypatch.setenv("DVC_ROOT", str(outer / "team"))
    assert home() == outer / "team"


def test_a_stage_of_the_paper_has_the_home_of_the_project(outer, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(outer / "team/stn/experiments/paper"))
    assert home() == outer / "team/stn"


def test_without_a_project_it_is_gits_top_folder(outer, monkeypatch):
    monkeypatch.chdir(outer / "team")
    assert home() == outer
