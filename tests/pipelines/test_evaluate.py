"""evaluate: the paired comparison against independent computations, and what the table says of it."""

import re
from fractions import Fraction
from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluate import compare, comparison_table
from pipelines.params import EvaluateParams


def how(resamples=2000, confidence=0.95) -> EvaluateParams:
    return EvaluateParams(batch_size=100, resamples=resamples, confidence=confidence)


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


@pytest.mark.parametrize(("seeds", "confidence"), [(1, 0.9), (3, 0.999)])
def test_the_table_says_what_was_measured(seeds, confidence):
    def variant(accuracy: float, parameters: int) -> dict:
        return {
            "test_accuracy": accuracy, "test_accuracy_std": 0.0123 if seeds > 1 else None, "test_loss": 0.4321,
            "validation_accuracy": 0.905, "seeds": {str(seed): {} for seed in range(seeds)},
            "parameters": parameters, "multiply_adds": 2 * parameters, "final_fit": False,
        }  # fmt: skip

    settings = how(confidence=confidence)
    pair = compare(*answers(3, 10, 80, 7), settings)
    metrics = {
        "variants": {"plain": variant(0.83, 1234567), "seed": variant(0.9, 2345678)},
        "pairs": {"seed vs plain": pair._asdict()},
    }
    text = comparison_table(metrics, {"dataset": "mine", "counts": {"test": 100}}, settings)
    assert text.startswith(f"mine: 100 test images, {seeds} training seed(s)")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["variant", "parameters", "multiply-adds", "validation accuracy", "test accuracy", "test loss"]
    spread = " ± 1.23" if seeds > 1 else ""
    assert rows[2] == ["plain", "1,234,567", "2,469,134", "90.50%", f"83.00{spread} %", "0.4321"]
    assert rows[3][:2] == ["seed", "2,345,678"] and len(rows) == 4
    (line,) = [line for line in text.splitlines() if line.startswith("- ")]
    # Of "seed vs plain" the first is seed, which is right where plain is not on 10 images.
    assert line.startswith(f"- seed vs plain: +7.00 points, {confidence * 100:g}% interval ")
    assert "10 images right in the first alone, 3 in the second alone" in line
    low, high = map(float, re.findall(r"interval (\S+) to (\S+);", line)[0])
    assert (low, high) == pytest.approx((pair.low * 100, pair.high * 100), abs=0.005)
    assert float(re.findall(r"p = (\S+)", line)[0]) == pytest.approx(mcnemar(3, 10), rel=0.05)


def test_one_variant_is_compared_with_none():
    values = {
        "test_accuracy": 0.9, "test_accuracy_std": None, "test_loss": 0.3, "validation_accuracy": 0.9,
        "seeds": {"0": {}}, "parameters": 5, "multiply_adds": 6, "final_fit": False,
    }  # fmt: skip
    text = comparison_table(
        {"variants": {"plain": values}, "pairs": {}}, {"dataset": "x", "counts": {"test": 1}}, how()
    )
    assert "interval" not in text and "McNemar" not in text and "| plain |" in text
    assert "says nothing" not in text


def test_validation_accuracy_after_a_final_fit_is_said_to_say_nothing():
    values = {
        "test_accuracy": 0.9, "test_accuracy_std": None, "test_loss": 0.3, "validation_accuracy": 0.99,
        "seeds": {"0": {}}, "parameters": 5, "multiply_adds": 6, "final_fit": True,
    }  # fmt: skip
    metrics = {"variants": {"plain": values}, "pairs": {}}
    assert "says nothing" in comparison_table(metrics, {"dataset": "x", "counts": {"test": 1}}, how())
