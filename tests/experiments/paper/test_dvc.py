"""The experiment's dvc.yaml against its code, what a stage says that it needs against what it loads; and make paper."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from experiments.paper.settings import load_params

ROOT = Path(__file__).resolve().parents[3]
STAGES = YAML(typ="safe").load((ROOT / "experiments/paper/dvc.yaml").read_text())["stages"]
LIST_IMPORTS = """
import importlib, json, sys
from pathlib import Path
importlib.import_module(sys.argv[1])
files = [Path(module.__file__) for module in sys.modules.values() if getattr(module, "__file__", None)]
print(json.dumps([f.relative_to(Path.cwd()).as_posix() for f in files if f.is_relative_to(Path.cwd())]))
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_code_is_what_it_imports(stage):
    module = STAGES[stage]["cmd"].split()[2]
    command = [sys.executable, "-c", LIST_IMPORTS, module]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=900)
    imported = {name for name in json.loads(done.stdout.splitlines()[-1]) if not name.startswith(".")}
    assert {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")} == imported


def test_the_matrix_is_that_of_the_settings():
    assert list(STAGES["train"]["matrix"].values()) == ["${distortions}", "${networks}", "${seeds}"]
    assert list(STAGES["addition"]["matrix"].values()) == ["${addition}", "${seeds}"]
    assert list(STAGES["colocalization"]["matrix"].values()) == ["${digits}"]


@pytest.fixture
def make_paper(tmp_path):
    """What ``make paper ONLY=…`` has DVC reproduce: the stages' names, or the failure. Its ``dvc`` only tells."""
    told = tmp_path / "told"
    fake = tmp_path / "dvc"
    fake.write_text(f'#!/bin/sh\n[ "$1" = stage ] && exec {sys.executable} -m dvc "$@"\necho "$@" >> {told}\n')
    fake.chmod(0o755)

    def run(only: str) -> tuple[list[str], subprocess.CompletedProcess]:
        command = ["make", "-o", ".venv/.ready", "paper", f"ONLY={only}", f"PATH={tmp_path}:{os.environ['PATH']}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        lines = told.read_text().splitlines() if told.exists() else []
        return [line.replace("experiments/paper/dvc.yaml:", "") for line in lines], done

    return run


@pytest.mark.parametrize(
    ("only", "stages"),
    [
        ("R-CNN", "train@R-CNN-0 train@R-CNN-1 train@R-CNN-2"),
        ("TC-ST-FCN-tps-1", "train@TC-ST-FCN-tps-1"),
        ("colocalization-7", "colocalization@7"),
        ("addition-2xST-FCN-affine", " ".join(f"addition@2xST-FCN-affine-{seed}" for seed in range(3))),
    ],
)
def test_only_a_part_is_made_and_then_the_table(make_paper, only, stages):
    told, done = make_paper(only)
    assert done.returncode == 0, done.stderr
    assert told == [f"repro {stages}", "repro --single-item table"]


def test_only_r_is_not_rts(make_paper):
    params = load_params()
    stages = make_paper("R")[0][0].split()[1:]
    assert len(stages) == len(params.networks) * len(params.seeds) and all(s.startswith("train@R-") for s in stages)


def test_a_part_that_is_none_is_refused(make_paper):
    told, done = make_paper("Q")
    assert done.returncode == 2 and told == []
    assert "error: ONLY: 'Q' given" in done.stderr
