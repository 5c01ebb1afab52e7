"""Comparing two models on the same images, against independent computations."""

from fractions import Fraction
from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from pipelines.evaluation.significance import compare, holm, p_better
from pipelines.settings.params import EvaluateParams


def how(resamples=2000, confidence=0.95) -> EvaluateParams:
    return EvaluateParams(batch_size=100, resamples=resamples, confidence=confidence, robustness_images=50)


def answers(only_first: int, only_second: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images each of two models got right, in an order that says nothing."""
    kinds = [(True, False)] * only_first + [(False, True)] * only_second + [(True, True)] * both
    table = np.array(kinds + [(False, False)] * neither)
    first, second = np.random.default_rng(0).permutation(table).T
    return first, second


def mcnemar(one: int, other: int) -> float:
    """Of so many coins, how likely is a split at least as uneven: counted, in whole numbers."""
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
    found = compare(*answers(*counts), how(resamples=100))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.difference == pytest.approx((only_second - only_first) / sum(counts))
    assert found.p_value == pytest.approx(mcnemar(only_first, only_second), rel=1e-9)
    assert found.low <= found.difference <= found.high or sum(counts) < 50


@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_the_interval_is_the_normal_one_where_that_holds(confidence):
    first, second = answers(120, 200, 1400, 280)
    delta = second.astype(float) - first
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * delta.std() / len(delta) ** 0.5
    found = compare(first, second, how(5000, confidence))
    assert (found.low, found.high) == pytest.approx((delta.mean() - half, delta.mean() + half), abs=0.1 * half)
    assert compare(first, second, how(5000, confidence)) == found, "the same models give another interval each time"


def test_identical_models_do_not_differ():
    first, _ = answers(30, 0, 50, 20)
    assert compare(first, first.copy(), how()) == (0.0, 0.0, 0.0, 0, 0, 1.0)


def test_swapped_models_differ_the_other_way():
    first, second = answers(20, 45, 300, 100)
    there, back = compare(first, second, how()), compare(second, first, how())
    assert there.difference > 0 and there.low > 0, "the second is better here"
    assert back.difference == -there.difference and back.p_value == pytest.approx(there.p_value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert (back.only_first, back.only_second) == (there.only_second, there.only_first)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 10), (10, 3), (5, 5), (0, 7)])
def test_better_is_one_side_of_mcnemars_test(one, other):
    first, second = answers(one, other, 50, 20)
    counted = Fraction(sum(comb(one + other, k) for k in range(other, one + other + 1)), 2 ** (one + other))
    assert p_better(first, second) == pytest.approx(float(counted))
    if one != other:
        # The two sides overlap in what was found itself.
        assert p_better(first, second) + p_better(second, first) == pytest.approx(
            1 + binom.pmf(other, one + other, 0.5)
        )


def test_two_equal_models_are_called_different_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    found = [p_better(*(rng.random((2, 400)) < 0.8)) <= 0.05 for _ in range(1000)]
    assert 0.02 < np.mean(found) <= 0.065  # an exact test of whole numbers stays below its level


def test_holms_own_procedure():
    """Of Holm (1979): the smallest against level / n, the next against level / (n - 1), until one is not rejected."""
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.02, 0.02, 0.02], 0.05) == [False] * 3
    assert holm([0.001], 0.05) == [True] and holm([], 0.05) == []
