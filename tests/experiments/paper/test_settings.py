"""The experiment's settings: a task's own in place of those of all."""

import re

import pytest

from experiments.paper import settings
from experiments.paper.settings import FOLDER, load_params
from pipelines.runtime.errors import UserError


def write(tmp_path, monkeypatch, new: str) -> None:
    """The experiment's params.yaml with something else in place of R's own settings."""
    text, found = re.subn(r"(?m)^  R: \{.*?\}", f"  {new}", (FOLDER / "params.yaml").read_text())
    assert found == 1
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.setattr(settings, "FOLDER", tmp_path)


def test_a_task_has_its_own_settings_where_it_names_them(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, "R: {epochs: 77, bound: null}")
    params = load_params()
    params = params.model_copy(update={"train": params.train.model_copy(update={"bound": 0.5})})
    own, common = params.train_of("R").model_dump(), params.train_of("P").model_dump()
    assert common == params.train.model_dump()
    assert {name: own[name] for name in own if own[name] != common[name]} == {"epochs": 77, "bound": None}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("S: {epochs: 15}", "overrides.S: unknown setting"),
        ("R: {epochs: 0}", "overrides.R.epochs: 0 given"),
        ("R: {epochs: null}", "overrides.R.epochs: null given"),
        ("R: {epoch: 9}", "overrides.R.epoch: unknown setting; did you mean epochs?"),
        ("R: 9", "overrides.R: 9 given"),
    ],
)
def test_mistakes_in_them_are_told(tmp_path, monkeypatch, wrong, said):
    write(tmp_path, monkeypatch, wrong)
    with pytest.raises(UserError) as caught:
        load_params()
    assert said in str(caught.value)
