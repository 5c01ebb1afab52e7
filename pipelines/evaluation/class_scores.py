"""Precision, recall and F1 of each class, and the metrics that follow from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, recall_score

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


def score_predictions(truth: np.ndarray, predicted: np.ndarray) -> dict[Metric, float]:
    """Compute each metric, in [0, 1], from labels (N,). Classes without images are left out of both means."""
    present = np.unique(truth)
    means: Any = {"labels": present, "average": "macro", "zero_division": 0}
    return {
        Metric.ACCURACY: float(accuracy_score(truth, predicted)),
        Metric.BALANCED_ACCURACY: float(recall_score(truth, predicted, **means)),
        Metric.MACRO_F1: float(f1_score(truth, predicted, **means)),
    }
