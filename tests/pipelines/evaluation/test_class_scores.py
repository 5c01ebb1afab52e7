"""Scores of classes and metrics, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from pipelines.evaluation.class_scores import score_classes, score_predictions
from pipelines.outputs.class_results import ClassScores
from pipelines.settings.metric import Metric

TRUTH = np.array([0, 0, 0, 0, 1, 1, 3])
PREDICTED = np.array([0, 0, 0, 2, 0, 1, 0])  # class 2 has no images, class 3 is never predicted


def test_classes_without_images_and_without_predictions():
    assert score_classes(TRUTH, PREDICTED, ["cat", "dog", "eel", "fox", "gnu"]) == [
        ClassScores("cat", 4, 0.6, 0.75, 2 * 3 / (4 + 5)),
        ClassScores("dog", 2, 1.0, 0.5, 2 * 1 / (2 + 1)),
        ClassScores("eel", 0, 0.0, None, None),
        ClassScores("fox", 1, None, 0.0, 0.0),
        ClassScores("gnu", 0, None, None, None),
    ]


def test_metrics_are_means_over_the_classes_with_images():
    found = score_predictions(TRUTH, PREDICTED)
    expected = {
        Metric.ACCURACY: accuracy_score(TRUTH, PREDICTED),
        Metric.BALANCED_ACCURACY: (0.75 + 0.5 + 0) / 3,
        Metric.MACRO_F1: (2 / 3 + 2 / 3 + 0) / 3,
    }
    assert found == pytest.approx(expected)


def test_where_all_classes_occur_the_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.choice(4, 300, p=[0.9, 0.05, 0.03, 0.02])
    predicted = np.where(rng.random(300) < 0.7, truth, rng.integers(4, size=300))
    found = score_predictions(truth, predicted)
    assert found[Metric.BALANCED_ACCURACY] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found[Metric.MACRO_F1] == pytest.approx(f1_score(truth, predicted, average="macro"))
