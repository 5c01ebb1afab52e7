"""Test images turned, scaled and shifted, all by the same amount: how much of its accuracy does a model keep?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stn.distortions import distort, sampling_matrix


class Motion(NamedTuple):
    """One way to move the content of images, the amounts of it that are tried, and what they are measured in."""

    name: str
    amounts: tuple[float, ...]
    unit: str
    still: float  # the amount at which nothing moves

    def __str__(self) -> str:
        return f"{self.name} {self.amounts[0]:g} to {self.amounts[-1]:g} {self.unit}".rstrip()

    def apply(self, images: Tensor, amount: float) -> Tensor:
        """Images uint8 (N, C, H, W) with their content moved by ``amount``; what is uncovered is black."""
        height, width = images.shape[-2:]
        angle, scale, shift = torch.zeros(1), torch.ones(1), torch.zeros(1)
        if self.name == "rotation":
            angle = torch.deg2rad(angle + amount)
        elif self.name == "scale":
            scale = scale * amount
        else:
            shift = shift + 2 * amount  # the image is 2 units wide
        matrix = sampling_matrix(angle, scale, shift, shift, aspect=width / height)
        chunks = [
            distort(chunk.float(), matrix.expand(len(chunk), 2, 3), "zeros").round().clamp(0, 255).byte()
            for chunk in images.split(1000)
        ]
        return torch.cat(chunks)


ROTATION = Motion("rotation", tuple(range(-90, 91, 15)), "°", 0.0)
MOTIONS = (
    ROTATION,
    Motion("scale", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6), "×", 1.0),
    Motion("shift", (-0.3, -0.25, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3), "of the size", 0.0),
)


def area(amounts: Sequence[float], accuracies: Sequence[float]) -> float:
    """The area under the curve of accuracy over amounts, over its width: the mean accuracy over the whole range."""
    return float(np.trapezoid(accuracies, amounts) / (amounts[-1] - amounts[0]))
