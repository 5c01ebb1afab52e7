"""evaluate: what the table says of the figures."""

import re

import pytest

from pipelines.evaluation.comparison_table import comparison_table
from pipelines.evaluation.significance import Difference
from pipelines.settings.params import EvaluateParams

EVEN = {"robustness": {"rotation": 0.5, "scale": 0.5, "shift": 0.5}, "calibration_error": 0.1}


def how(confidence=0.95) -> EvaluateParams:
    return EvaluateParams(batch_size=100, resamples=2000, confidence=confidence, robustness_images=50)


@pytest.mark.parametrize(("seeds", "confidence"), [(1, 0.9), (3, 0.999)])
def test_the_table_says_what_was_measured(seeds, confidence):
    def variant(accuracy: float, parameters: int) -> dict:
        return {
            "test_accuracy": accuracy, "test_accuracy_std": 0.0123 if seeds > 1 else None, "test_loss": 0.4321,
            "validation_accuracy": 0.905, "seeds": {str(seed): {} for seed in range(seeds)},
            "parameters": parameters, "multiply_adds": 2 * parameters, "final_fit": False,
            "robustness": {"rotation": accuracy / 2, "scale": accuracy / 3, "shift": accuracy / 4},
            "calibration_error": 0.025,
        }  # fmt: skip

    settings = how(confidence=confidence)
    pair = Difference(0.07, 0.0012, 0.1398, only_first=3, only_second=10, p_value=0.0923)
    metrics = {
        "variants": {"plain": variant(0.83, 1234567), "stn": variant(0.9, 2345678)},
        "pairs": {"stn vs plain": pair._asdict()},
    }
    text = comparison_table(metrics, {"dataset": "mine", "counts": {"test": 100}}, settings)
    assert text.startswith(f"mine: 100 test images, {seeds} training seed(s)")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["variant", "parameters", "multiply-adds", "validation accuracy", "test accuracy", "test loss"]
    spread = " ± 1.23" if seeds > 1 else ""
    assert rows[2] == ["plain", "1,234,567", "2,469,134", "90.50%", f"83.00{spread} %", "0.4321"]
    assert rows[3][:2] == ["stn", "2,345,678"]
    assert rows[4][:2] == ["variant", "rotation -90 to 90 °"] and rows[6] == [
        "plain",
        "41.50%",
        "27.67%",
        "20.75%",
        "2.50%",
    ]
    assert rows[7][0] == "stn" and len(rows) == 8
    (line,) = [line for line in text.splitlines() if line.startswith("- ")]
    # Of "stn vs plain" the first is stn, which is right where plain is not on 10 images.
    assert line.startswith(f"- stn vs plain: +7.00 points, {confidence * 100:g}% interval ")
    assert "10 images right in the first alone, 3 in the second alone" in line
    low, high = map(float, re.findall(r"interval (\S+) to (\S+);", line)[0])
    assert (low, high) == pytest.approx((pair.low * 100, pair.high * 100), abs=0.005)
    assert "p = 0.092 " in line


def test_one_variant_is_compared_with_none():
    values = {
        "test_accuracy": 0.9, "test_accuracy_std": None, "test_loss": 0.3, "validation_accuracy": 0.9,
        "seeds": {"0": {}}, "parameters": 5, "multiply_adds": 6, "final_fit": False, **EVEN,
    }  # fmt: skip
    text = comparison_table(
        {"variants": {"plain": values}, "pairs": {}}, {"dataset": "x", "counts": {"test": 1}}, how()
    )
    assert "interval" not in text and "McNemar" not in text and "| plain |" in text
    assert "says nothing" not in text


def test_validation_accuracy_after_a_final_fit_is_said_to_say_nothing():
    values = {
        "test_accuracy": 0.9, "test_accuracy_std": None, "test_loss": 0.3, "validation_accuracy": 0.99,
        "seeds": {"0": {}}, "parameters": 5, "multiply_adds": 6, "final_fit": True, **EVEN,
    }  # fmt: skip
    metrics = {"variants": {"plain": values}, "pairs": {}}
    assert "says nothing" in comparison_table(metrics, {"dataset": "x", "counts": {"test": 1}}, how())
