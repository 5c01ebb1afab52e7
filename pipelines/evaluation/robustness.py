"""Robustness: accuracy of models on test images that are rotated, scaled or shifted by a fixed amount."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.outputs.motions import MOTIONS, Motion
from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.outputs.trained_models import Trained
from pipelines.runtime.progress import track
from pipelines.settings.params import EvaluateParams
from stn.batches import limit_batch
from stn.distortions import CHUNK_IMAGES, CHUNK_VALUES, distort, sampling_matrix
from stn.training import default_device, predict

# Of one variant: motion → training seed → accuracy at each of the motion's amounts.
Curves = dict[Motion, dict[int, list[float]]]


def measure_robustness(
    models: Mapping[str, Sequence[Trained]], test: Labeled, meta: DatasetMeta, settings: EvaluateParams
) -> dict[str, Curves]:
    """Measure the accuracy of all models on test images moved by each amount of each motion.

    Args:
        models: variant → its models, on :func:`~stn.training.default_device`.
        settings: batch size, and number of test images to use.
    """
    images, labels = choose_images(test, settings.robustness_images)
    curves: dict[str, Curves] = {
        variant: {motion: {model.seed: [] for model in trained} for motion in MOTIONS}
        for variant, trained in models.items()
    }
    work = [(motion, amount) for motion in MOTIONS for amount in motion.amounts]
    for motion, amount in track("robustness", work, len(work)):
        batches = meta.ordered_batches(Labeled(move(images, motion, amount), labels), default_device())
        for variant, trained in models.items():
            for model in trained:
                logits, truth, _ = predict(model.network, batches.ordered(limit_batch(batches, settings.batch_size)))
                accuracy = (logits.argmax(1) == truth).double().mean().item()
                curves[variant][motion][model.seed].append(accuracy)
    return curves


def choose_images(test: Labeled, count: int) -> Labeled:
    """Choose at most ``count`` images. The subset is random, because the test set may be sorted by class."""
    chosen = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))[:count]
    return Labeled(test.images[chosen], test.labels[chosen])


def move(images: Tensor, motion: Motion, amount: float) -> Tensor:
    """Move the content of uint8 images (N, C, H, W) by ``amount``. Uncovered pixels are black."""
    height, width = images.shape[-2:]
    angle, scale, shift = torch.zeros(1), torch.ones(1), torch.zeros(1)
    if motion.name == "rotation":
        angle = torch.deg2rad(angle + amount)
    elif motion.name == "scale":
        scale = scale * amount
    else:
        shift = shift + 2 * amount  # the image is 2 units wide
    matrix = sampling_matrix(angle, scale, shift, shift, aspect=width / height)
    return resample(images, matrix.expand(len(images), 2, 3))


def resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample uint8 images (N, C, H, W) by sampling matrices (N, 2, 3). Uncovered pixels are black."""
    size = max(1, min(CHUNK_IMAGES, CHUNK_VALUES // images[0].numel()))
    chunks = [
        distort(pixels.float(), of_chunk, "zeros").round().clamp(0, 255).byte()
        for pixels, of_chunk in zip(images.split(size), matrices.split(size), strict=True)
    ]
    return torch.cat(chunks)


def area(amounts: Sequence[float], accuracies: Sequence[float]) -> float:
    """Mean accuracy over the range of amounts: the area under the curve (trapezoidal rule) divided by its width."""
    return float(np.trapezoid(accuracies, amounts) / (amounts[-1] - amounts[0]))
