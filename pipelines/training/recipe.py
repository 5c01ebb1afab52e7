"""The recipe of a training, from params.yaml and a variant's file."""

from dataclasses import fields

from pipelines.settings.params import RecipeParams
from pipelines.settings.variants import VariantParams
from stn.settings import Recipe


def recipe_of(train: RecipeParams, variant: VariantParams) -> Recipe:
    """Combine the section ``train`` with the variant's settings of the same names as the fields of :class:`Recipe`."""
    values = {}
    for section in (train, variant):
        for field in fields(Recipe):
            if field.name in type(section).model_fields:
                values[field.name] = getattr(section, field.name)
    return Recipe(**values)
