"""Calibration: does a model's confidence equal its accuracy? Guo et al. (2017), section 2."""

from collections.abc import Sequence

import numpy as np

from pipelines.outputs.evaluation_results import ReliabilityBin

BINS = 15  # as in Guo et al. (2017)


def reliability_bins(confidences: np.ndarray, correct: np.ndarray) -> list[ReliabilityBin]:
    """Group predictions by confidence into ``BINS`` intervals of equal width. Empty bins are omitted.

    Args:
        confidences: highest class probability of each image (N,), in [0, 1].
        correct: whether each prediction is correct, boolean (N,).
    """
    bin_of_image = np.minimum((confidences * BINS).astype(int), BINS - 1)
    bins = []
    for index in np.unique(bin_of_image):
        inside = bin_of_image == index
        bins.append(ReliabilityBin(float(confidences[inside].mean()), float(correct[inside].mean()), int(inside.sum())))
    return bins


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error in [0, 1]: mean of |accuracy - confidence|, weighted by images (equation 3)."""
    images = sum(bin.images for bin in bins)
    return sum(bin.images * abs(bin.accuracy - bin.confidence) for bin in bins) / images
