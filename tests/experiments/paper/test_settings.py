"""The experiment's settings: a task's own in place of those of all."""

import pytest

from experiments.paper import settings
from experiments.paper.settings import FOLDER, load_params
from pipelines.errors import UserError


def write(tmp_path, monkeypatch, old: str, new: str) -> None:
    """The experiment's params.yaml with one line of it changed."""
    text = (FOLDER / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    monkeypatch.setattr(settings, "FOLDER", tmp_path)


def test_a_task_has_its_own_settings_where_it_names_them(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, "R: {epochs: 15}", "P: {epochs: 77, lr: 0.5}")
    train = load_params().train
    own, common = train.of("P").model_dump(), train.of("R").model_dump()
    assert common == train.model_dump()
    assert {name: own[name] for name in own if own[name] != common[name]} == {"epochs": 77, "lr": 0.5}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("S: {epochs: 15}", "train.overrides.S"), ("R: {epochs: 0}", "train.overrides.R.epochs"), ("R: {epoch: 9}", "epochs")],
)
def test_mistakes_in_them_are_told(tmp_path, monkeypatch, wrong, said):
    write(tmp_path, monkeypatch, "R: {epochs: 15}", wrong)
    with pytest.raises(UserError, match=said):
        load_params()
