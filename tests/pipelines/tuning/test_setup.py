"""Trials and finals are trained with the recipe of the section train, whichever preset has given its values."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines.settings.params import check_params
from pipelines.settings.train_presets import PRESETS
from pipelines.settings.variants import load_variant
from pipelines.training.recipe import recipe_of
from pipelines.tuning.setup import TuningSetup
from tests.pipelines.tuning.test_search_space import CIFAR

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("preset", PRESETS)
def test_trials_and_finals_have_the_recipe_of_train(preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = copy.deepcopy(YAML(typ="safe").load((ROOT / "params.yaml").read_text()))
    values["variants"] = ["stn"]
    values["train"] |= {"preset": preset, "ema": 0.321}
    params, baseline = check_params(values, Path("params.yaml")), load_variant("stn")
    setup = TuningSetup(params, baseline, CIFAR)
    trial, final = setup.trial_task("a", baseline), setup.final_task("b", baseline, 7)
    assert final.recipe == recipe_of(params.train, baseline) and final.seed == 7
    assert trial.recipe == replace(final.recipe, epochs=params.tune.epochs)
    assert final.recipe.ema == 0.321
    for name in PRESETS[preset].values.keys() - {"epochs", "ema"}:
        assert getattr(trial.recipe, name) == PRESETS[preset].values[name], name
