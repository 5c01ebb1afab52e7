"""recipe_of takes each field of a Recipe from the section that has it."""

from dataclasses import fields, replace

import pytest

from pipelines.settings.params import RecipeParams, load_params
from pipelines.settings.recipe import AlignmentParams
from pipelines.settings.variants import VariantParams, load_variant
from pipelines.training.recipe import recipe_of
from stn.settings import AlignmentSettings, Recipe

FIELDS = [field.name for field in fields(Recipe)]
OF_NETWORK = {"dropout"}  # a setting of the section train that goes to the network


def test_every_field_is_a_setting_of_one_section_and_every_setting_of_a_recipe_has_a_field():
    of_train, of_variant = set(RecipeParams.model_fields) - OF_NETWORK, set(VariantParams.model_fields)
    assert of_train & of_variant == set()
    assert of_train <= set(FIELDS) <= of_train | of_variant
    assert of_variant - set(FIELDS) == {"alignment_weight", "transformer", "transformers", "classifier", "origin"}
    assert set(FIELDS) - of_train == {"localization_lr", "localization_weight_decay", "theta_penalty"}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_follows_its_setting_and_no_other_does(field):
    train, variant = load_params().train, load_variant("stn")
    before, marker = recipe_of(train, variant), object()
    if field in type(train).model_fields:
        train = train.model_copy(update={field: marker})
    else:
        variant = variant.model_copy(update={field: marker})
    assert recipe_of(train, variant) == replace(before, **{field: marker})


def test_a_variant_replaces_the_weight_of_the_term_for_undone_motions():
    train, variant = load_params().train, load_variant("stn")
    train = train.model_copy(update={"alignment": AlignmentParams(weight=2.0, to="upright", warmup=0.5)})
    assert recipe_of(train, variant).alignment == AlignmentSettings(2.0, "upright", 0.5)
    for weight in (0.0, 7.0):
        changed = recipe_of(train, variant.model_copy(update={"alignment_weight": weight}))
        assert changed.alignment == AlignmentSettings(weight, "upright", 0.5)
