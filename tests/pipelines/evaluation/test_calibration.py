"""Calibration error of models whose error is known."""

from itertools import pairwise

import numpy as np
import pytest

from pipelines.evaluation.calibration import BINS, calibration_error, reliability_bins


@pytest.mark.parametrize("overconfidence", [0.0, 0.1, -0.2])
def test_the_error_is_the_distance_of_confidence_from_accuracy(overconfidence):
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.3, 0.8, 400_000)  # of a correct prediction
    correct = rng.uniform(size=len(probability)) < probability
    bins = reliability_bins(probability + overconfidence, correct)
    assert calibration_error(bins) == pytest.approx(abs(overconfidence), abs=0.004)
    assert sum(b.images for b in bins) == len(probability)
    assert all(b.confidence - b.accuracy == pytest.approx(overconfidence, abs=0.03) for b in bins if b.images > 5000)


def test_the_error_equals_a_sum_over_bins_found_by_their_edges():
    rng = np.random.default_rng(1)
    confidences, correct = rng.uniform(size=1000), rng.uniform(size=1000) < 0.5
    edges = np.linspace(0, 1, BINS + 1)
    differences = [
        (correct[inside].mean() - confidences[inside].mean()) * inside.sum()
        for low, high in pairwise(edges)
        if (inside := (confidences >= low) & (confidences < high)).any()
    ]
    assert calibration_error(reliability_bins(confidences, correct)) == pytest.approx(np.abs(differences).sum() / 1000)


def test_confidence_one_belongs_to_the_last_bin():
    (only,) = reliability_bins(np.ones(4), np.array([True, True, True, False]))
    assert only == (1.0, 0.75, 4) and calibration_error([only]) == 0.25
