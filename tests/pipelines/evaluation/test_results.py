"""Files of the stage evaluate: reading returns what was written, in the form that is documented."""

import json

import numpy as np
import pytest

from pipelines.outputs.alignment_results import Alignment, Slope, ThetaResults
from pipelines.outputs.class_results import ClassScores
from pipelines.outputs.evaluation_results import (
    METRICS,
    PLOTS,
    Difference,
    EvaluationResults,
    ReliabilityBin,
    read_curve,
    read_reliability,
    read_results,
    write_curve,
    write_reliability,
    write_results,
)
from pipelines.outputs.motions import ROTATION
from pipelines.settings.metric import Metric
from tests.results import seed_results, variant_results

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_results_have_the_documented_json_form():
    seeds = {4: seed_results(0.5, 0.7, ThetaResults(0.5, 0.6, 0.0, 0.1, 0.2)), 5: seed_results(0.5, 0.7, None, ["dog"])}
    alignment = Alignment({"rotation": Slope(0.5, 0.4, 0.6, -0.25)}, 3.0, 9.0, 6.0, 12.0, 0.5)
    classes = [ClassScores("cat", 10, 0.5, 0.25, 0.3), ClassScores("dog", 0, None, None, None)]
    plain = variant_results(0.5, seeds=seeds, alignment=alignment, chosen_seed=4, classes=classes)
    results = EvaluationResults(
        {"plain": plain}, {"stn vs plain": Difference(0.1, 0.0, 0.2, 3, 10, 0.09)}, Metric.MACRO_F1
    )
    write_results(results)
    assert read_results() == results
    assert results.never_right == [
        "plain, training seed 5: no test image of 1 of 2 classes is classified correctly: dog"
    ]
    assert results.variants["plain"].chosen == seeds[4]
    assert results.trouble == ["plain, training seed 4: θ looks outside the image for more than half of its grid"]
    written = json.loads(METRICS.read_text())
    assert written == {
        "metric": "macro_f1",
        "variants": {
            "plain": {
                "test_accuracy": 0.5, "test_accuracy_std": None, "test_balanced_accuracy": 0.45,
                "test_balanced_accuracy_std": None, "test_macro_f1": 0.4, "test_macro_f1_std": None,
                "test_loss": 0.4321, "calibration_error": 0.025, "validation_accuracy": 0.905,
                "validation_balanced_accuracy": 0.805, "validation_macro_f1": 0.705,
                "seeds": {
                    "4": {
                        "test_accuracy": 0.5, "test_balanced_accuracy": 0.45, "test_macro_f1": 0.4, "test_loss": 0.7,
                        "never_right": [],
                        "theta": {"undone": 0.5, "outside": 0.6, "mirrored": 0.0, "one_color": 0.1, "spread": 0.2},
                    },
                    "5": {
                        "test_accuracy": 0.5, "test_balanced_accuracy": 0.45, "test_macro_f1": 0.4, "test_loss": 0.7,
                        "never_right": ["dog"], "theta": None,
                    },
                },
                "final_fit": False, "chosen_seed": 4, "chosen_test_accuracy": 0.5,
                "classes": [
                    {"name": "cat", "images": 10, "precision": 0.5, "recall": 0.25, "f1": 0.3},
                    {"name": "dog", "images": 0, "precision": None, "recall": None, "f1": None},
                ],
                "parameters": 12345, "multiply_adds": 23456,
                "robustness": {"rotation": 0.25, "scale": 0.5 / 3, "shift": 0.125},
                "alignment": {
                    "slopes": {"rotation": {"median": 0.5, "low": 0.4, "high": 0.6, "mean": -0.25}},
                    "corner_error": 3.0, "corner_error_90": 9.0, "fixed_error": 6.0, "fixed_error_90": 12.0,
                    "undone": 0.5,
                },
            }
        },
        "pairs": {
            "stn vs plain": {
                "difference": 0.1, "low": 0.0, "high": 0.2, "only_first": 3, "only_second": 10, "p_value": 0.09,
            }
        },
    }  # fmt: skip


def test_a_reliability_diagram_is_read_back():
    bins = [ReliabilityBin(0.4, 0.5, 10), ReliabilityBin(0.9, 0.7, 30)]
    write_reliability("plain", bins)
    assert read_reliability("plain") == bins


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_curve_is_read_back_for_each_seed(seeds):
    accuracies = np.random.default_rng(0).random((seeds, len(ROTATION.amounts)))
    write_curve(ROTATION, "plain", dict(enumerate(accuracies.tolist())))
    assert np.array_equal(read_curve(ROTATION, "plain"), accuracies)
    header, first, *_ = (PLOTS / "rotation/plain.csv").read_text().splitlines()
    assert header.split(",") == ["amount", "accuracy", *(f"seed_{seed}" for seed in range(seeds))]
    assert [float(value) for value in first.split(",")[:2]] == pytest.approx([-90, accuracies[:, 0].mean()])
