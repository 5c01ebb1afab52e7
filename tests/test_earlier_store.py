"""A tracking store of commit 835a76f, whose baseline variant was named seed, still works.

``fixtures/store-835a76f.tar.xz`` is a backup that ``make backup`` wrote at that commit, after ``dvc repro`` with
SETTINGS and the variants plain, seed and tuned. Reports, pictures and the version of tuned were deleted before.
"""

import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.outputs.prepared_data import load_meta
from tests.conftest import ROOT, Project, copy_project

pytestmark = pytest.mark.slow

COMMIT = "835a76f"
SETTINGS = (
    "data.dataset=digits", "data.size=28", "data.channels=1", "data.distortion.rotation=60",
    "data.distortion.scale=[0.5, 1.0]", "data.distortion.shift=0.1",
)  # fmt: skip


def restore_store(project: Project, folder: Path) -> None:
    with tarfile.open(ROOT / "tests/fixtures/store-835a76f.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    project.run("python", "-m", "tools.backup", "from", str(folder))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Project:
    """A copy of the project with that store, and with the data of its versions prepared by the code of today."""
    folder = tmp_path_factory.mktemp("earlier")
    project = copy_project(folder / "project")
    restore_store(project, folder / "backup")
    project.set(*SETTINGS)
    project.stage("prepare")
    return project


def test_the_data_have_the_digest_that_they_had(earlier, monkeypatch):
    monkeypatch.chdir(earlier.folder)
    assert load_meta().digest.startswith("e68dcfaff941")


def test_its_versions_are_compared_promoted_and_taken_back(earlier):
    refused = earlier.command("promote", "stn-digits", "--version", "1", check=False)
    assert refused.returncode == 3, refused.stdout
    assert re.search(r"\| challenger \| 1 \| plain \|", refused.stdout)
    assert re.search(r"\| champion \| 2 \| seed \|", refused.stdout)
    earlier.command("promote", "stn-digits", "--version", "1", "--force", "to see that it moves")
    assert "from version 1 to version 2" in earlier.command("rollback", "stn-digits").stdout
    history = earlier.command("history", "stn-digits").stdout
    said = ("initial version none → 2", "refused version 1", "forced version 2 → 1", "rolled back version 1 → 2")
    assert all(line in history for line in said), history


def test_a_version_of_the_variant_seed_predicts(earlier, tmp_path):
    Image.fromarray(np.zeros((28, 28), dtype=np.uint8)).save(tmp_path / "black.png")
    said = earlier.command("predict", "stn-digits", str(tmp_path / "black.png")).stdout
    assert "version 2 (seed)" in said and (tmp_path / "black.rectified.png").exists()


def test_its_provenance(earlier):
    said = earlier.command("provenance", "stn-digits").stdout
    assert re.search(r"variant +seed\n", said) and re.search(rf"git_commit +{COMMIT}", said)
    assert "version 2: seed" in earlier.command("provenance", "--commit", COMMIT).stdout


def test_a_version_is_reproduced_at_its_own_commit(earlier):
    """The code of that commit trains again, with that commit's names of modules and variants."""
    known = subprocess.run(["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip(f"this clone has no history: commit {COMMIT} is missing")
    earlier.run("git", "fetch", "--quiet", str(ROOT), "HEAD")
    said = earlier.command("reproduce", "stn-digits").stdout
    assert "seed, training seed" in said and f"again at {COMMIT}" in said
    # On another kind of processor than the one that trained it the last bits differ.
    assert re.search(r"the weights are equal, bit for bit|the weights differ; test accuracy", said)
