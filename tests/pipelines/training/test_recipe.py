"""recipe_of takes each field of a Recipe from the section that has it."""

from dataclasses import fields, replace

import pytest

from pipelines.settings.params import RecipeParams, load_params
from pipelines.settings.variants import VariantParams, load_variant
from pipelines.training.recipe import recipe_of
from stn.settings import Recipe

FIELDS = [field.name for field in fields(Recipe)]
OF_NETWORK = {"dropout"}  # a setting of the section train that goes to the network


def test_every_field_is_a_setting_of_one_section_and_every_setting_of_a_recipe_has_a_field():
    of_train, of_variant = set(RecipeParams.model_fields) - OF_NETWORK, set(VariantParams.model_fields)
    assert of_train & of_variant == set()
    assert of_train <= set(FIELDS) <= of_train | of_variant
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
