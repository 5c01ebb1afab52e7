"""Comparison of two models on the same images, checked against independent computations."""

from fractions import Fraction
from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp

from pipelines.evaluation.significance import compare, compare_seeds, holm_rejections, mcnemar_p_value
from pipelines.outputs.evaluation_results import Difference, SeedResults
from pipelines.settings.metric import Metric
from pipelines.settings.params import EvaluateParams


def evaluate_params(resamples=2000, confidence=0.95, metric="accuracy") -> EvaluateParams:
    return EvaluateParams(
        metric=Metric(metric), batch_size=100, resamples=resamples, confidence=confidence, robustness_images=50
    )


def compare_answers(first: np.ndarray, second: np.ndarray, params: EvaluateParams) -> Difference:
    """Compare two models by whether each classifies each image correctly."""
    return compare(np.ones(len(first), dtype=bool), first, second, params)


def answers(only_first: int, only_second: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of two models classifies each image correctly, in random order."""
    kinds = [(True, False)] * only_first + [(False, True)] * only_second + [(True, True)] * both
    table = np.array(kinds + [(False, False)] * neither)
    first, second = np.random.default_rng(0).permutation(table).T
    return first, second


def mcnemar(one: int, other: int) -> float:
    """Probability that fair coin tosses split at least as unevenly as this, counted exactly."""
    tosses = one + other
    uneven = sum(comb(tosses, k) for k in range(tosses + 1) if abs(2 * k - tosses) >= abs(one - other))
    return float(Fraction(uneven, 2**tosses))


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 200), st.integers(0, 60)).filter(
        lambda c: c[0] + c[1]
    )
)
def test_mcnemars_exact_test_and_the_difference(counts):
    only_first, only_second, *_ = counts
    found = compare_answers(*answers(*counts), evaluate_params(resamples=100))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.difference == pytest.approx((only_second - only_first) / sum(counts))
    assert found.p_value == pytest.approx(mcnemar(only_first, only_second), rel=1e-9)
    assert found.low <= found.difference <= found.high or sum(counts) < 50


@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_the_interval_agrees_with_the_normal_approximation(confidence):
    first, second = answers(120, 200, 1400, 280)
    delta = second.astype(float) - first
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * delta.std() / len(delta) ** 0.5
    params = evaluate_params(5000, confidence)
    found = compare_answers(first, second, params)
    assert (found.low, found.high) == pytest.approx((delta.mean() - half, delta.mean() + half), abs=0.1 * half)
    assert compare_answers(first, second, params) == found, "the interval of the same models changes from call to call"


def test_identical_models_do_not_differ():
    first, _ = answers(30, 0, 50, 20)
    assert compare_answers(first, first.copy(), evaluate_params()) == Difference(0.0, 0.0, 0.0, 0, 0, 1.0)


def test_swapping_the_models_reverses_the_difference():
    first, second = answers(20, 45, 300, 100)
    params = evaluate_params()
    there, back = compare_answers(first, second, params), compare_answers(second, first, params)
    assert there.difference > 0 and there.low > 0, "the second model is better"
    assert back.difference == -there.difference and back.p_value == pytest.approx(there.p_value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert (back.only_first, back.only_second) == (there.only_second, there.only_first)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 10), (10, 3), (5, 5), (0, 7)])
def test_the_one_sided_p_value_is_counted_exactly(one, other):
    first, second = answers(one, other, 50, 20)
    counted = Fraction(sum(comb(one + other, k) for k in range(other, one + other + 1)), 2 ** (one + other))
    assert mcnemar_p_value(first, second) == pytest.approx(float(counted))
    if one != other:
        # Both one-sided p-values include the observed outcome.
        assert mcnemar_p_value(first, second) + mcnemar_p_value(second, first) == pytest.approx(
            1 + binom.pmf(other, one + other, 0.5)
        )


def test_equal_models_are_rejected_at_most_as_often_as_the_level():
    rng = np.random.default_rng(0)
    found = [mcnemar_p_value(*(rng.random((2, 400)) < 0.8)) <= 0.05 for _ in range(1000)]
    assert 0.02 < np.mean(found) <= 0.065  # an exact test of counts stays below its level


def seed_results(**accuracies: float) -> dict[int, SeedResults]:
    return {int(seed[1:]): SeedResults(accuracy, 1 - accuracy, 0.0, 0.0) for seed, accuracy in accuracies.items()}


def test_variants_are_compared_seed_by_seed():
    """The t-interval of SciPy's one-sample test is the oracle. Seeds that only one variant has are left out."""
    first = seed_results(_0=0.5, _1=0.7, _2=0.6, _9=0.1)
    second = seed_results(_2=0.65, _0=0.52, _1=0.73, _8=0.9)
    difference = compare_seeds(first, second, Metric.ACCURACY, 0.9)
    expected = ttest_1samp([0.02, 0.03, 0.05], 0).confidence_interval(0.9)
    assert difference is not None
    assert difference == pytest.approx((0.1 / 3, expected.low, expected.high))
    balanced = compare_seeds(first, second, Metric.BALANCED_ACCURACY, 0.9)
    assert balanced == pytest.approx((-0.1 / 3, -expected.high, -expected.low))
    assert compare_seeds(first, seed_results(_0=0.5, _8=0.6), Metric.ACCURACY, 0.9) is None


def test_holms_procedure():
    """Holm (1979): the smallest p-value is compared to level / n, the next to level / (n - 1), up to the first miss."""
    assert holm_rejections([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm_rejections([0.02, 0.02, 0.02], 0.05) == [False] * 3
    assert holm_rejections([0.001], 0.05) == [True] and holm_rejections([], 0.05) == []
