"""The experiment's settings: overrides of single tasks, and mistakes in them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.paper import settings
from experiments.paper.settings import FOLDER, load_params
from pipelines.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def write(tmp_path, monkeypatch, new: str) -> None:
    """Write the experiment's params.yaml with other overrides of R."""
    text, found = re.subn(r"(?m)^  R: \{.*?\}", f"  {new}", (FOLDER / "params.yaml").read_text())
    assert found == 1
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.setattr(settings, "FOLDER", tmp_path)


def test_overrides_replace_the_settings_of_their_task_alone(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, "R: {epochs: 77, bound: null}")
    params = load_params()
    params = params.model_copy(update={"train": params.train.model_copy(update={"bound": 0.5})})
    own, common = params.train_of("R", "short").model_dump(), params.train_of("P", "short").model_dump()
    assert common == params.train.model_dump()
    assert {name: own[name] for name in own if own[name] != common[name]} == {"epochs": 77, "bound": None}


def test_the_papers_own_schedule_has_its_150000_steps_for_every_task():
    params = load_params()
    for task in ("R", "TC", "addition"):
        recipe = params.train_of(task, "long")
        steps = recipe.epochs * (round(60000 * (1 - params.prepare.validation)) // recipe.batch_size)
        assert steps == pytest.approx(150000, rel=1e-3) and recipe.bound is None
        assert (recipe.optimizer, recipe.batch_size, recipe.lr, recipe.weight_decay) == ("sgd", 256, 0.01, 0.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("S: {epochs: 15}", "overrides.S: unknown setting"),
        ("R: {epochs: 0}", "overrides.R.epochs: 0 given"),
        ("R: {epochs: null}", "overrides.R.epochs: null given"),
        ("R: {epoch: 9}", "overrides.R.epoch: unknown setting; did you mean epochs?"),
        ("R: 9", "overrides.R: 9 given"),
        ("R: {epochs: 9, distortion_ramp: 9}", "distortion_ramp: 9 given for R; less than its 9 epochs"),
    ],
)
def test_mistakes_in_overrides_are_reported(tmp_path, monkeypatch, wrong, message):
    write(tmp_path, monkeypatch, wrong)
    with pytest.raises(UserError) as caught:
        load_params()
    assert message in str(caught.value)


def test_settings_are_checked_before_torch_is_imported():
    """The import takes seconds."""
    stages = "experiments.paper.prepare, experiments.paper.train, experiments.paper.colocalize"
    command = [sys.executable, "-c", f"import sys, {stages}; sys.exit('torch' in sys.modules)"]
    subprocess.run(command, check=True, cwd=ROOT)
