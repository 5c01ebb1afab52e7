"""make_training_data: the recipe augments the training images, in each of its ways, and never the validation images."""

from dataclasses import replace

import pytest
import torch

from pipelines.outputs.labeled_files import Labeled
from pipelines.outputs.prepared_data import TrainingSplits
from pipelines.training.batches import make_training_data
from stn.augmentation import Augmentation
from stn.settings import Recipe
from tests.pipelines.tuning.test_search_space import describe

RECIPE = Recipe(epochs=1, batch_size=4)
CHANGES = {"flip": True, "vertical_flip": True, "shift": 2, "crop": [0.5, 0.9], "color_jitter": 0.3, "mixup": 0.4,
           "distortion_ramp": 5}  # fmt: skip


@pytest.mark.parametrize("setting", CHANGES)
def test_a_setting_of_the_recipe_is_that_of_the_augmentation(setting):
    split = Labeled(torch.full((4, 3, 8, 8), 7, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    splits, change = TrainingSplits([split], split), {setting: CHANGES[setting]}
    meta = replace(describe((3, 8, 8), 5), distortion={"protocol": "R", "padding_mode": "border"})
    data = make_training_data(splits, meta, replace(RECIPE, **change), torch.device("cpu"))
    assert data.training.augmentation == Augmentation(distortion=meta.make_distortion(), **change)
    assert data.validation.augmentation == Augmentation()
    ((_, labels_or_probabilities),) = data.training.shuffled(4, 0, 0)
    assert labels_or_probabilities.shape == ((4, 5) if setting == "mixup" else (4,)), "five classes, one occurs"
