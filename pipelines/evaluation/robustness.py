"""Test images that are rotated, scaled and shifted, all by the same amount: how much accuracy does a model keep?"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.outputs.evaluation_results import Motion
from stn.distortions import distort, sampling_matrix


def move(images: Tensor, motion: Motion, amount: float) -> Tensor:
    """Images uint8 (N, C, H, W) with their content moved by ``amount``; the uncovered area is black."""
    height, width = images.shape[-2:]
    angle, scale, shift = torch.zeros(1), torch.ones(1), torch.zeros(1)
    if motion.name == "rotation":
        angle = torch.deg2rad(angle + amount)
    elif motion.name == "scale":
        scale = scale * amount
    else:
        shift = shift + 2 * amount  # the image is 2 units wide
    matrix = sampling_matrix(angle, scale, shift, shift, aspect=width / height)
    chunks = [
        distort(chunk.float(), matrix.expand(len(chunk), 2, 3), "zeros").round().clamp(0, 255).byte()
        for chunk in images.split(1000)
    ]
    return torch.cat(chunks)


def area(amounts: Sequence[float], accuracies: Sequence[float]) -> float:
    """The area under the curve of accuracy over amounts, over its width: the mean accuracy over the whole range."""
    return float(np.trapezoid(accuracies, amounts) / (amounts[-1] - amounts[0]))
