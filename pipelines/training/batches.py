"""Batches of the prepared data for a training worker or a tuning trial."""

import torch

from pipelines.outputs.prepared_data import DatasetMeta, TrainingArrays
from pipelines.training.trainer import TrainingData
from stn.augmentation import Augmentation
from stn.settings import Recipe


def make_training_data(arrays: TrainingArrays, meta: DatasetMeta, recipe: Recipe, device: torch.device) -> TrainingData:
    """Copy both splits to ``device``. The recipe and the data set's distortion augment only the training images."""
    training, validation = arrays.splits()
    augmentation = Augmentation(
        recipe.flip, recipe.shift, meta.make_distortion(), recipe.crop, color_jitter=recipe.color_jitter,
        mixup=recipe.mixup,
    )  # fmt: skip
    batches = meta.batches(training, device, augmentation, sampler=recipe.sampler)
    return TrainingData(batches, meta.batches(validation, device))
