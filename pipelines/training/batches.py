"""Batches of the prepared data for a training worker or a tuning trial."""

import torch

from pipelines.outputs.prepared_data import DatasetMeta, TrainingSplits
from pipelines.training.residency import choose_residency
from pipelines.training.trainer import TrainingData
from stn.augmentation import Augmentation
from stn.settings import Recipe


def make_training_data(
    splits: TrainingSplits, meta: DatasetMeta, recipe: Recipe, device: torch.device, *,
    residency: str = "auto", sharing: int = 1,
) -> TrainingData:  # fmt: skip
    """Make the batches of both splits. The recipe and the data set's distortion augment only the training images.

    Args:
        residency: the setting ``train.residency``.
        sharing: number of processes that share the memory of the device.

    Raises:
        UserError: the images do not fit where the setting wants them.
    """
    augmentation = Augmentation(
        recipe.flip, recipe.shift, meta.make_distortion(), recipe.crop, color_jitter=recipe.color_jitter,
        mixup=recipe.mixup, vertical_flip=recipe.vertical_flip, distortion_ramp=recipe.distortion_ramp,
    )  # fmt: skip
    chosen = choose_residency(residency, splits, augmentation, device, sharing)
    return TrainingData(
        meta.batches(splits.training, device, augmentation, chosen, sampler=recipe.sampler),
        meta.batches(splits.validation, device, residency=chosen),
    )
