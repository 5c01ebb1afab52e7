"""The recipe of a training, from params.yaml and a variant's file."""

from dataclasses import fields, replace

from pipelines.settings.recipe import AlignmentParams, RecipeParams
from pipelines.settings.variants import VariantParams
from stn.settings import AlignmentSettings, Recipe


def recipe_of(train: RecipeParams, variant: VariantParams) -> Recipe:
    """Combine the section ``train`` with the variant's settings of the same names as the fields of :class:`Recipe`.

    The variant's ``alignment_weight`` replaces ``train.alignment.weight``.
    """
    values = {}
    for section in (train, variant):
        for field in fields(Recipe):
            if field.name in type(section).model_fields:
                value = getattr(section, field.name)
                values[field.name] = AlignmentSettings(**dict(value)) if isinstance(value, AlignmentParams) else value
    recipe, weight = Recipe(**values), variant.alignment_weight
    return recipe if weight is None else replace(recipe, alignment=replace(recipe.alignment, weight=weight))
