"""The paired bootstrap of balanced accuracy and macro-F1, against a plain loop with scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from pipelines.evaluation.metric_bootstrap import bootstrap_difference
from pipelines.evaluation.significance import better_p_value, compare
from pipelines.settings.metric import Metric
from pipelines.settings.params import EvaluateParams

METRICS = [Metric.BALANCED_ACCURACY, Metric.MACRO_F1]


def evaluate_params(metric: Metric, resamples: int = 2000) -> EvaluateParams:
    return EvaluateParams(metric=metric, batch_size=9, resamples=resamples, confidence=0.9, robustness_images=9)


def predictions(right: float, seed: int, truth: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(truth)) < right, truth, rng.integers(4, size=len(truth)))


TRUTH = np.random.default_rng(9).choice(5, 400, p=[0.8, 0.1, 0.06, 0.04, 0.0])  # class 4 has no images


def score(metric: Metric, truth: np.ndarray, predicted: np.ndarray) -> float:
    if metric == Metric.BALANCED_ACCURACY:
        with warnings.catch_warnings(category=UserWarning, action="ignore"):  # classes without images
            return balanced_accuracy_score(truth, predicted)
    return f1_score(truth, predicted, labels=np.unique(truth), average="macro")


@pytest.mark.parametrize("metric", METRICS)
def test_it_agrees_with_a_loop_over_resamples(metric):
    first, second = predictions(0.6, 1, TRUTH), predictions(0.7, 2, TRUTH)
    found = bootstrap_difference(TRUTH, first, second, evaluate_params(metric))
    assert found.difference == pytest.approx(score(metric, TRUTH, second) - score(metric, TRUTH, first))
    rng, differences = np.random.default_rng(1), []
    for _ in range(300):
        chosen = rng.integers(len(TRUTH), size=len(TRUTH))
        scores = [score(metric, TRUTH[chosen], predicted[chosen]) for predicted in (first, second)]
        differences.append(scores[1] - scores[0])
    low, high = np.quantile(differences, [0.05, 0.95])
    width = high - low
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.2 * width)
    assert found.share_at_most_0 == pytest.approx(np.mean(np.array(differences) <= 0), abs=0.06)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_models_do_not_differ_and_a_swap_reverses_the_difference(metric):
    first, second, params = predictions(0.5, 1, TRUTH), predictions(0.9, 2, TRUTH), evaluate_params(metric)
    equal = compare(TRUTH, first, first.copy(), params)
    assert (equal.difference, equal.low, equal.high, equal.p_value) == (0, 0, 0, 1)
    assert better_p_value(TRUTH, first, first, params) == 1
    there, back = compare(TRUTH, first, second, params), compare(TRUTH, second, first, params)
    assert there.low > 0 and there.p_value == back.p_value == pytest.approx(2 / 2001)
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first)
    assert better_p_value(TRUTH, first, second, params) == pytest.approx(1 / 2001)
    assert better_p_value(TRUTH, second, first, params) == 1


def test_the_metric_decides_which_of_two_models_is_better():
    """One model is always right on the frequent class and never else; the other is right on some of both classes."""
    truth = np.array([0] * 160 + [1] * 40)
    frequent, even = np.zeros(200, dtype=int), np.where(np.arange(200) % 2, truth, 1 - truth)
    even[:100] = truth[:100]
    accuracy = compare(truth, frequent, even, evaluate_params(Metric.ACCURACY))
    balanced = compare(truth, frequent, even, evaluate_params(Metric.BALANCED_ACCURACY))
    assert accuracy.difference < 0 < balanced.low
    assert better_p_value(truth, frequent, even, evaluate_params(Metric.ACCURACY)) > 0.5
    assert better_p_value(truth, frequent, even, evaluate_params(Metric.BALANCED_ACCURACY)) < 0.01


def test_many_classes_and_images_fit_into_batches():
    truth = np.arange(3000) % 1000
    first, second = (predictions(0.3, seed, truth) for seed in (1, 2))
    found = bootstrap_difference(truth, first, second, evaluate_params(Metric.MACRO_F1, 200))
    assert found.low < found.difference < found.high
