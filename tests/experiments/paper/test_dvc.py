"""The experiment's dvc.yaml: stages depend on the digests of the code that they import. What make paper selects."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from experiments.paper.accept_results import find_stages
from experiments.paper.code_digest import MODULES, find_code
from experiments.paper.settings import load_params

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "experiments/paper"
STAGES = YAML(typ="safe").load((FOLDER / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "code"])
def test_a_stage_depends_on_the_code_of_its_module(stage):
    module = STAGES[stage]["cmd"].split("experiments.paper.")[1].split()[0]
    assert [dep for dep in STAGES[stage]["deps"] if dep.startswith("code/")] == [f"code/{module}.json"]
    assert module in MODULES and STAGES["code"]["matrix"]["module"] == list(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_the_code_of_a_module_is_what_it_loads(module):
    """All files that Python loads for it are found, but those that change no result."""
    loads = {
        "prepare": "import pipelines.preparation.run",
        "train": "import experiments.paper.training",
        "colocalize": "import experiments.paper.colocalization",
        "table": "",
    }[module]  # what main imports
    printed = "print(*(getattr(module, '__file__', 0) for module in sys.modules.values()))"
    code = f"import sys, experiments.paper.{module}\n{loads}\n{printed}"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = {Path(file) for file in loaded.split() if Path(file).is_relative_to(ROOT) and ".venv" not in file}
    files = {
        file for file in files if "runtime" not in file.parts and (file.name != "__init__.py" or "stn" in file.parts)
    }
    assert files <= set(find_code(module))
    assert not any("runtime" in file.parts for file in find_code(module))


def test_an_edit_reruns_the_stages_whose_code_it_is(project):
    folder = project.folder / "experiments/paper"

    def digests() -> dict[str, str]:
        for module in MODULES:
            project.run(sys.executable, "-m", "experiments.paper.code_digest", module)
        return {module: (folder / f"code/{module}.json").read_text() for module in MODULES}

    before = digests()
    (project.folder / "pipelines/runtime/progress.py").write_text("# changes no result\n")
    (project.folder / "stn/__pycache__").mkdir(exist_ok=True)
    (project.folder / "stn/__pycache__/x.pyc").write_text("x")
    with (project.folder / "experiments/paper/training.py").open("a") as file:
        file.write("# changes results\n")
    after = digests()
    assert [module for module in MODULES if before[module] != after[module]] == ["train"]


def test_the_main_pipeline_does_not_read_the_papers_stages(project):
    assert "paper" not in project.run("dvc", "stage", "list").stdout
    status = json.loads(project.run("dvc", "status", "--json").stdout)
    assert status and not any("paper" in stage for stage in status)
    inside = project.run("dvc", "--cd", "experiments/paper", "stage", "list", "--name-only").stdout.split()
    params = load_params()
    trainings = len(params.distortions) * len(params.networks) * len(params.seeds)
    assert sum(stage.startswith("train@") for stage in inside) == trainings


def test_its_stages_run_in_the_repositorys_root(project):
    project.run("dvc", "--cd", "experiments/paper", "repro", "--single-item", "code@table", "table")
    table = project.folder / "experiments/paper/table.json"
    assert json.loads(table.read_text())["R"]["CNN"] == pytest.approx(1.4, abs=0.3)
    assert project.run("git", "diff", "--stat", "--", "experiments/paper/table.md").stdout == ""
    assert not (project.folder / "experiments/paper/state").exists()


def test_the_matrices_are_the_settings():
    assert list(STAGES["train"]["matrix"].values()) == ["${distortions}", "${networks}", "${seeds}"]
    assert list(STAGES["addition"]["matrix"].values()) == ["${addition}", "${seeds}"]
    assert STAGES["long"]["matrix"] == STAGES["train"]["matrix"]
    assert STAGES["long_addition"]["matrix"] == STAGES["addition"]["matrix"]
    assert list(STAGES["colocalization"]["matrix"].values()) == ["${digits}"]


def test_the_results_in_git_are_recorded():
    """A clone does not train again what is trained: dvc.lock has a stage for each result, and no other training."""
    locked = YAML(typ="safe").load((FOLDER / "dvc.lock").read_text())["stages"]
    trainings = [name for name in locked if name.partition("@")[0] not in ("code", "prepare", "table")]
    assert sorted(find_stages()) == sorted(trainings)
    (name,) = locked["train@R-CNN-0"]["outs"]
    assert name["md5"] == hashlib.md5((FOLDER / name["path"]).read_bytes()).hexdigest()


@pytest.fixture
def make_paper(tmp_path):
    """Runs ``make paper ONLY=…`` with a fake ``dvc`` that records its arguments; returns these and the process."""
    calls = tmp_path / "calls"
    fake = tmp_path / "dvc"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = stage ] && exec {sys.executable} -m dvc "$@"\necho "$@" >> {calls}\n'
        '[ "$2" = --single-item ] && exit\nsleep "${SECONDS_OF_TRAINING:-0}"\nexit "${STATUS_OF_TRAINING:-0}"\n'
    )
    fake.chmod(0o755)

    def run(only: str, *more: str) -> tuple[list[str], subprocess.CompletedProcess]:
        path = f"PATH={tmp_path}:{os.environ['PATH']}"
        command = ["make", "-o", ".venv/.ready", "paper", f"ONLY={only}", path, *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        lines = calls.read_text().splitlines() if calls.exists() else []
        return lines, done

    return run


@pytest.mark.parametrize(
    ("only", "stages"),
    [
        ("R-CNN", [f"train@R-CNN-{seed}" for seed in range(3)]),
        ("TC-ST-FCN-tps-1", ["train@TC-ST-FCN-tps-1"]),
        ("colocalization-7", ["colocalization@7"]),
        ("colocalization", [" ".join(f"colocalization@{digit}" for digit in range(10))]),
        ("addition-2xST-FCN-affine", [f"addition@2xST-FCN-affine-{seed}" for seed in range(3)]),
    ],
)
def test_a_part_and_then_the_table_is_made(make_paper, only, stages):
    calls, done = make_paper(only)
    assert done.returncode == 0, done.stderr
    assert calls == [*(f"repro {of_one_seed}" for of_one_seed in stages), "repro --single-item code@table table"]


def test_the_first_seed_of_all_networks_comes_first_and_only_r_does_not_select_rts(make_paper):
    """One call of DVC trains one seed, because DVC does not keep the order of the stages within a call."""
    params = load_params()
    *calls, _ = make_paper("R")[0]
    assert calls == [
        " ".join(["repro", *(f"train@R-{network}-{seed}" for network in params.networks)]) for seed in params.seeds
    ]


def test_everything_is_made_a_seed_at_a_time(make_paper):
    params = load_params()
    *calls, _ = make_paper("")[0]
    trainings = [[name for name in call.split() if name.startswith(("train@", "addition@"))] for call in calls]
    networks = len(params.distortions) * len(params.networks) + len(params.addition)
    assert [len(of_one_seed) for of_one_seed in trainings] == [networks] * len(params.seeds)
    assert [{name[-1] for name in of_one_seed} for of_one_seed in trainings] == [{"0"}, {"1"}, {"2"}]
    assert set(calls[0].split()) >= {"code@train", "prepare@R", "colocalization@9"}
    assert not any(name == "table" or name.startswith("long") for call in calls for name in call.split())


def test_a_failed_training_ends_it_and_the_table_is_made(make_paper):
    calls, done = make_paper("R-CNN", "STATUS_OF_TRAINING=3")
    assert done.returncode != 0 and "minutes are over" not in done.stdout
    assert calls == ["repro train@R-CNN-0", "repro --single-item code@table table"]


def test_the_papers_own_schedule_has_stages_of_its_own(make_paper):
    params = load_params()
    *calls, _ = make_paper("R", "SCHEDULE=long")[0]
    assert calls == [
        " ".join(["repro", *(f"long@R-{network}-{seed}" for network in params.networks)]) for seed in params.seeds
    ]
    before = len(calls := make_paper("addition-FCN", "SCHEDULE=long")[0])
    assert calls[-4:-1] == [f"repro long_addition@FCN-{seed}" for seed in params.seeds]
    calls, done = make_paper("R", "SCHEDULE=longer")
    assert len(calls) == before and done.returncode == 2
    assert "error: SCHEDULE: 'longer' given; short or long" in done.stderr


def test_an_unknown_part_is_refused(make_paper):
    calls, done = make_paper("Q")
    assert done.returncode == 2 and calls == []
    assert "error: ONLY: 'Q' given" in done.stderr


def test_after_the_time_the_table_is_made_and_the_rest_stays_for_the_next_call(make_paper):
    calls, done = make_paper("R-CNN", "MINUTES=0.02", "SECONDS_OF_TRAINING=60")
    assert done.returncode == 0 and "The 0.02 minutes are over" in done.stdout
    assert calls == ["repro train@R-CNN-0", "repro --single-item code@table table"]
    calls, done = make_paper("R-CNN-0", "MINUTES=1")
    assert done.returncode == 0 and "minutes are over" not in done.stdout


def test_a_wrong_time_is_refused(make_paper):
    calls, done = make_paper("R-CNN-0", "MINUTES=soon")
    assert done.returncode == 2 and calls == [] and "error: MINUTES: 'soon' given" in done.stderr
