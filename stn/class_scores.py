"""Precision, recall and F1 of each class, from counts that can be added over parts of the images."""

from typing import NamedTuple

import torch
from torch import Tensor


class ClassScores(NamedTuple):
    """Scores of each class, fp64 (..., classes), NaN for classes without images.

    The mean recall over the classes is the balanced accuracy, and the mean F1 is macro-F1. Both leave out classes
    without images: use :meth:`torch.Tensor.nanmean`.

    Args:
        recall: share of the images of the class that are predicted as it.
        f1: harmonic mean of precision and recall, 0 for a class that is never predicted.
    """

    recall: Tensor
    f1: Tensor


def class_counts(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count correct predictions, images and predictions of each class, fp64 (3, classes).

    Args:
        predicted, labels: int64 (N,).
    """
    parts = (labels[predicted == labels], labels, predicted)
    return torch.stack([part.bincount(minlength=classes) for part in parts]).double()


def class_scores(counts: Tensor) -> ClassScores:
    """Compute the scores from sums of :func:`class_counts`, (3, ..., classes)."""
    correct, images, predictions = counts
    # 0 / 0 is NaN for classes without images. Their F1 is not 0 either if they are predicted.
    recall = correct / images
    return ClassScores(recall, torch.where(images > 0, 2 * correct / (images + predictions), torch.nan))
