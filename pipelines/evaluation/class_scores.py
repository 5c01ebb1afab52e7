"""Precision, recall and F1 of each class, and the metrics that follow from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from pipelines.outputs.class_results import ClassScores
from pipelines.settings.metric import Metric


def score_classes(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[ClassScores]:
    """Compute the scores of each class.

    Args:
        truth, predicted: labels (N,).
        names: of all classes, in the order of the labels.
    """
    scores: Any = precision_recall_fscore_support(
        truth,
        predicted,
        labels=range(len(names)),
        zero_division=np.nan,  # pyright: ignore[reportArgumentType]
    )
    found = []
    for name, precision, recall, f1, images in zip(names, *scores, strict=True):
        if images == 0:  # F1 is 0 there if an image is predicted as the class
            recall = f1 = None
        found.append(ClassScores(name, int(images), *map(_number_or_none, (precision, recall, f1))))
    return found


def _number_or_none(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def score_predictions(truth: np.ndarray, predicted: np.ndarray, classes: int) -> dict[Metric, float]:
    """Compute each metric, in [0, 1], from labels (N,); ``classes`` is the number of classes."""
    scores = score_classes(truth, predicted, [""] * classes)
    return {
        Metric.ACCURACY: float((truth == predicted).mean()),
        Metric.BALANCED_ACCURACY: float(np.mean([each.recall for each in scores if each.recall is not None])),
        Metric.MACRO_F1: float(np.mean([each.f1 for each in scores if each.f1 is not None])),
    }
