"""Calibration errors of models whose error is known."""

from itertools import pairwise

import numpy as np
import pytest

from pipelines.evaluation.calibration import BINS, calibration_error, reliability


@pytest.mark.parametrize("overconfidence", [0.0, 0.1, -0.2])
def test_the_error_is_by_how_much_confidence_is_off(overconfidence):
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.3, 0.8, 400_000)  # how often it is right
    right = rng.uniform(size=len(truth)) < truth
    bins = reliability(truth + overconfidence, right)
    assert calibration_error(bins) == pytest.approx(abs(overconfidence), abs=0.004)
    assert sum(b.images for b in bins) == len(truth)
    assert all(b.confidence - b.accuracy == pytest.approx(overconfidence, abs=0.03) for b in bins if b.images > 5000)


def test_against_the_sum_over_images():
    """The same by another way: of each image the bin is found by its edges, and its difference added."""
    rng = np.random.default_rng(1)
    confidences, right = rng.uniform(size=1000), rng.uniform(size=1000) < 0.5
    edges = np.linspace(0, 1, BINS + 1)
    differences = [
        (right[inside].mean() - confidences[inside].mean()) * inside.sum()
        for low, high in pairwise(edges)
        if (inside := (confidences >= low) & (confidences < high)).any()
    ]
    assert calibration_error(reliability(confidences, right)) == pytest.approx(np.abs(differences).sum() / 1000)


def test_certainty_is_in_the_last_bin():
    (only,) = reliability(np.ones(4), np.array([True, True, True, False]))
    assert only == (1.0, 0.75, 4) and calibration_error([only]) == 0.25
