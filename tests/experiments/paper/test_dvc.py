"""The experiment's stages.yaml: each stage depends on the code that it imports. Also, what make paper selects."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from experiments.paper.settings import load_params
from tools.imports import modules, needed_by

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "experiments/paper"
STAGES = YAML(typ="safe").load((FOLDER / "stages.yaml").read_text())["stages"]
EXPERIMENT = {f"experiments.paper.{file.stem}": file for file in FOLDER.glob("*.py")}
# Imported code that a stage does not depend on, with the reason.
LEFT_OUT = {
    "pipelines/runtime": "messages, locks and files: it changes no result",
    "pipelines/__init__.py": "a docstring",
    "pipelines/networks/__init__.py": "a docstring",
    "pipelines/outputs/__init__.py": "a docstring",
    "pipelines/preparation/__init__.py": "a docstring",
    "pipelines/settings/__init__.py": "a docstring",
    "pipelines/training/__init__.py": "settings of Ray, which the experiment does not use",
    "experiments/paper/__init__.py": "a docstring",
}


def imported_by(file: Path) -> set[str]:
    """The names of all modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def code_of(module: str) -> set[str]:
    """The project's files that a module of the experiment imports, directly or indirectly; itself included."""
    found: set[str] = set()
    waiting = {"experiments.paper.__init__", module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        for imported in imported_by(EXPERIMENT[name]):
            if imported in modules():
                found |= needed_by(imported)
            elif imported in EXPERIMENT and imported not in found:
                waiting.add(imported)
    files = {EXPERIMENT[name] if name in EXPERIMENT else modules()[name] for name in found}
    return {file.relative_to(ROOT).as_posix() for file in files}


def is_within(file: str, places: Iterable[str]) -> bool:
    return any(file == place or file.startswith(f"{place}/") for place in places)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_code_is_what_it_imports(stage):
    """An edit of a missing dependency would not run the stage; an edit of an unused one would run it for nothing."""
    files = code_of(STAGES[stage]["cmd"].split()[2])
    deps = [dep for dep in STAGES[stage]["deps"] if dep.endswith(".py") or is_within(dep, ("pipelines", "stn"))]
    assert [file for file in sorted(files) if not is_within(file, (*deps, *LEFT_OUT))] == []
    assert [dep for dep in deps if not any(is_within(file, [dep]) for file in files)] == []
    assert [dep for dep in deps if is_within(dep, LEFT_OUT)] == []


def test_what_is_left_out_is_imported():
    files = set().union(*(code_of(stage["cmd"].split()[2]) for stage in STAGES.values()))
    assert [place for place in LEFT_OUT if not any(is_within(file, [place]) for file in files)] == []


def test_the_matrices_are_the_settings():
    assert list(STAGES["train"]["matrix"].values()) == ["${distortions}", "${networks}", "${seeds}"]
    assert list(STAGES["addition"]["matrix"].values()) == ["${addition}", "${seeds}"]
    assert list(STAGES["colocalization"]["matrix"].values()) == ["${digits}"]


@pytest.fixture
def make_paper(tmp_path):
    """Runs ``make paper ONLY=…`` with a fake ``dvc`` that records its arguments; returns these and the process."""
    calls = tmp_path / "calls"
    fake = tmp_path / "dvc"
    fake.write_text(f'#!/bin/sh\n[ "$1" = stage ] && exec {sys.executable} -m dvc "$@"\necho "$@" >> {calls}\n')
    fake.chmod(0o755)

    def run(only: str) -> tuple[list[str], subprocess.CompletedProcess]:
        command = ["make", "-o", ".venv/.ready", "paper", f"ONLY={only}", f"PATH={tmp_path}:{os.environ['PATH']}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        lines = calls.read_text().splitlines() if calls.exists() else []
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
def test_a_part_and_then_the_table_is_made(make_paper, only, stages):
    calls, done = make_paper(only)
    assert done.returncode == 0, done.stderr
    assert calls == [f"repro {stages}", "repro --single-item table"]
    assert not (FOLDER / "dvc.yaml").exists()  # every other command of DVC would read it


def test_only_r_does_not_select_rts(make_paper):
    params = load_params()
    stages = make_paper("R")[0][0].split()[1:]
    assert len(stages) == len(params.networks) * len(params.seeds) and all(s.startswith("train@R-") for s in stages)


def test_an_unknown_part_is_refused(make_paper):
    calls, done = make_paper("Q")
    assert done.returncode == 2 and calls == []
    assert "error: ONLY: 'Q' given" in done.stderr
