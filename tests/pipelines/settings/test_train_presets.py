"""Presets: they give values to nulls alone, before the data set's defaults, and the default preset changes nothing."""

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.runtime.errors import UserError
from pipelines.settings.dataset_defaults import DATASET_DEFAULTS
from pipelines.settings.params import RecipeParams, check_params
from pipelines.settings.train_presets import OF_EVERY_PRESET, PRESETS

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
NEUTRAL = {
    "layer_decay": 1.0, "decay_norms": True, "label_smoothing": 0.0, "crop": [1.0, 1.0],
    "color_jitter": 0.0, "mixup": 0.0, "ema": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def train(**changes: Any) -> dict[str, Any]:
    """The section train with some settings changed, after nulls are replaced."""
    values = copy.deepcopy(SHIPPED)
    values["variants"] = ["plain"]
    values["train"] |= changes
    return check_params(values, Path("params.yaml")).train.model_dump()


def test_the_shipped_settings_are_those_from_before_there_were_presets():
    values = train()
    assert SHIPPED["train"]["preset"] == values["preset"] == "small"
    assert {name: values[name] for name in NEUTRAL} == NEUTRAL
    assert (values["optimizer"], values["warmup"], values["weight_decay"]) == ("muon", 0.2, 0.0005)
    assert values["epochs"] == DATASET_DEFAULTS["cifar10"].epochs


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_nulls_their_values_before_the_data_set_does(preset):
    values, given = train(preset=preset), PRESETS[preset].values
    assert {name: values[name] for name in given} == dict(given)
    of_data_set = DATASET_DEFAULTS["cifar10"]._asdict()
    rest = {name for name, value in SHIPPED["train"].items() if value is None} - given.keys()
    assert {name: values[name] for name in rest} == {name: of_data_set[name] for name in rest}
    fixed = {name: value for name, value in SHIPPED["train"].items() if value is not None and name != "preset"}
    assert {name: values[name] for name in fixed} == fixed


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("setting", ["optimizer", "ema", "lr", "crop"])
def test_a_value_wins_over_the_preset(preset, setting):
    value = {"optimizer": "sgd", "ema": 0.5, "lr": 0.077, "crop": [0.9, 0.95]}[setting]
    before, after = train(preset=preset), train(preset=preset, **{setting: value})
    assert after == before | {setting: value}


def test_presets_consist_of_settings_of_the_recipe_and_none_lacks_a_value():
    nullable = {name for name, value in SHIPPED["train"].items() if value is None}
    for name, preset in PRESETS.items():
        assert set(OF_EVERY_PRESET) <= preset.values.keys() <= nullable & RecipeParams.model_fields.keys(), name
        assert preset.suits.startswith("Suits ") and preset.suits.endswith(".")


def test_without_a_preset_a_null_is_refused_in_one_line_and_values_are_accepted():
    with pytest.raises(UserError) as refused:
        train(preset="none")
    assert str(refused.value) == (
        "params.yaml: train.optimizer: null given with preset: none; "
        "set it, or one of the presets small, from_scratch, finetune"
    )
    values = train(preset="none", **PRESETS["small"].values)
    assert values == train() | {"preset": "none"}


def test_a_wrong_preset_is_the_only_mistake():
    with pytest.raises(UserError) as refused:
        train(preset="big")
    assert len(str(refused.value).splitlines()) == 1 and "train.preset: 'big' given" in str(refused.value)


def test_settings_from_before_there_were_presets_are_accepted():
    """A record of an earlier training, or an earlier params.yaml, lacks the new settings."""
    values = copy.deepcopy(SHIPPED)
    values["variants"] = ["plain"]
    values["train"] |= PRESETS["small"].values
    for name in (*NEUTRAL, "preset"):
        del values["train"][name]
    assert check_params(values, Path("params.yaml")).train.model_dump() == train()
