"""Calibration: of the images answered with a confidence of 80 %, are 80 % right? Guo et al. (2017), section 2."""

from typing import NamedTuple

import numpy as np

BINS = 15  # as in that paper


class Bin(NamedTuple):
    """Images whose confidence, the highest probability, lies in one interval; means over them."""

    confidence: float
    accuracy: float
    images: int


def reliability(confidences: np.ndarray, right: np.ndarray) -> list[Bin]:
    """The bins of a reliability diagram, those without an image left out.

    Args:
        confidences: (N,) in [0, 1].
        right: (N,), whether the answer was.
    """
    place = np.minimum((confidences * BINS).astype(int), BINS - 1)
    return [
        Bin(float(confidences[place == i].mean()), float(right[place == i].mean()), int((place == i).sum()))
        for i in np.unique(place)
    ]


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error, in [0, 1]: mean distance of accuracy and confidence, over images (equation 3)."""
    total = sum(b.images for b in bins)
    return sum(b.images * abs(b.accuracy - b.confidence) for b in bins) / total
