"""Comparison table: it shows the evaluation results."""

import re
from dataclasses import replace
from typing import Any

import pytest

from pipelines.evaluation.comparison_table import comparison_table
from pipelines.outputs.alignment_results import Alignment, Slope, ThetaResults
from pipelines.outputs.evaluation_results import (
    Difference,
    EvaluationResults,
    VariantResults,
    describe_never_right,
)
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.settings.metric import Metric
from tests.results import seed_results, variant_results

META = DatasetMeta(
    dataset="mine", source="/data/mine", classes=["cat", "dog"], image_shape=(1, 8, 8),
    counts={"train": 300, "validation": 50, "test": 100}, mean=[0.5], std=[0.25], distortion={}, duplicates={},
    broken={}, digest="0",
)  # fmt: skip


def make_results(accuracy: float, parameters: int, seeds: int = 1, **changes: Any) -> VariantResults:
    return variant_results(accuracy, seeds, parameters=parameters, multiply_adds=2 * parameters, **changes)


@pytest.mark.parametrize(("seeds", "confidence"), [(1, 0.9), (3, 0.999)])
def test_the_table_shows_the_results(seeds, confidence):
    difference = Difference(0.07, 0.0012, 0.1398, only_first=3, only_second=10, p_value=0.0923)
    results = EvaluationResults(
        variants={
            "plain": make_results(0.83, 1234567, seeds),
            "stn": make_results(0.9, 2345678, seeds),
        },
        pairs={"stn vs plain": difference},
    )
    text = comparison_table(results, META, confidence)
    assert text.startswith(f"mine: 100 test images, {seeds} training seed(s)")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    metrics = ["validation accuracy", "test accuracy", "test balanced accuracy", "test macro-F1", "test loss"]
    assert rows[0] == ["variant", "parameters", "multiply-adds", *metrics]
    spread = " ± 1.23" if seeds > 1 else ""
    on_test = [f"{value}{spread} %" for value in ("83.00", "74.70", "66.40")]
    assert rows[2] == ["plain", "1,234,567", "2,469,134", "90.50%", *on_test, "0.4321"]
    assert rows[3][:2] == ["stn", "2,345,678"]
    assert rows[4][:2] == ["variant", "rotation -90 to 90 °"]
    assert rows[6] == ["plain", "41.50%", "27.67%", "20.75%", "2.50%"]
    assert rows[7][0] == "stn" and len(rows) == 8
    *of_seeds, line = [line for line in text.splitlines() if line.startswith("- ")]
    assert of_seeds == (["- stn vs plain: +7.00 points, interval +7.00 to +7.00"] if seeds > 1 else [])
    # In "stn vs plain" the model of stn is the second: it alone is correct on 10 images.
    assert line.startswith(f"- stn vs plain: +7.00 points, {confidence * 100:g}% interval ")
    assert "10 images classified correctly by stn alone, 3 by plain alone" in line
    low, high = map(float, re.findall(r"interval (\S+) to (\S+);", line)[0])
    assert (low, high) == pytest.approx((difference.low * 100, difference.high * 100), abs=0.005)
    assert "McNemar's exact p = 0.092 " in line and "Difference in test accuracy on the same images" in text


def test_the_metric_that_selects_is_named_beside_its_numbers():
    variants = {"plain": make_results(0.8, 5, 2), "stn": make_results(0.9, 9, 2, validation_balanced_accuracy=None)}
    pairs = {"stn vs plain": Difference(0.07, 0.01, 0.13, 3, 10, 0.0923)}
    text = comparison_table(EvaluationResults(variants, pairs, Metric.BALANCED_ACCURACY), META, 0.95)
    assert "| validation balanced accuracy |" in text and "validation accuracy" not in text
    assert "| plain | 5 | 10 | 80.50% |" in text and "| stn | 9 | 18 | not measured |" in text
    assert "- stn vs plain: +9.00 points, interval +9.00 to +9.00" in text, "0.9 * 0.1, by seed"
    assert "Difference in test balanced accuracy, paired by training seed" in text
    assert "best model by validation balanced accuracy" in text
    assert "paired bootstrap p = 0.092 " in text and "McNemar" not in text


def test_classes_without_a_right_answer_are_named_at_the_head_for_each_seed():
    seeds = {0: seed_results(0.9), 3: seed_results(0.5, never_right=["cat"])}
    text = comparison_table(EvaluationResults({"stn": make_results(0.9, 9, seeds=1)}, {}), META, 0.95)
    assert "No right answer" not in text
    stn = replace(make_results(0.9, 9), seeds=seeds)
    lines = comparison_table(EvaluationResults({"stn": stn}, {}), META, 0.95).splitlines()
    told = "no test image of 1 of 2 classes is classified correctly: cat"
    assert lines[2] == f"**No right answer**: stn, training seed 3: {told}."


def test_of_many_classes_without_a_right_answer_some_are_named_and_all_are_counted():
    told = describe_never_right([f"c{i}" for i in range(37)], 200)
    assert "37 of 200 classes" in told and told.endswith("c8, c9 and 27 more")


def test_a_variant_with_a_transformer_has_a_row_on_what_it_undoes():
    intervals = {"rotation": (0.01, -0.02, 0.03), "scale": (0.5, 0.4, 0.6), "shift": (1.0, 0.9, 1.1)}
    slopes = {name: Slope(*interval, mean=-0.25) for name, interval in intervals.items()}
    stn = replace(make_results(0.9, 9), alignment=Alignment(slopes, 4.06, 9.0, 5.04, 12.0, 0.18))
    text = comparison_table(EvaluationResults({"plain": make_results(0.8, 5), "stn": stn}, {}), META, 0.95)
    slopes_shown = "0.01 (-0.02 to 0.03) | 0.50 (0.40 to 0.60) | 1.00 (0.90 to 1.10)"
    assert f"| stn | {slopes_shown} | 4.1 (9.0) | 5.0 (12.0) | 18% |" in text
    assert text.count("| plain |") == 2 and text.count("| stn |") == 3


def test_trouble_is_named_at_the_head_for_each_seed():
    healthy, lost = ThetaResults(0.5, 0.2, 0.0, 0.0, 0.1), ThetaResults(0.0, 0.9, 0.0, 0.0, 0.0)
    seeds = {0: seed_results(0.9, 0.4, healthy), 3: seed_results(0.1, 2.3, lost)}
    stn = replace(make_results(0.9, 9), seeds=seeds)
    lines = comparison_table(EvaluationResults({"stn": stn}, {}), META, 0.95).splitlines()
    assert lines[2] == (
        "**Trouble**: stn, training seed 3: θ looks outside the image for more than half of its grid; "
        "θ is the same for all images."
    )
    assert [line for line in lines if "Trouble" in line] == [lines[2]] and lines[1] == lines[3] == ""


def test_a_single_variant_has_no_paired_comparison():
    text = comparison_table(EvaluationResults({"plain": make_results(0.9, 5)}, {}), META, 0.95)
    assert "interval" not in text and "McNemar" not in text and "| plain |" in text
    assert "meaningless" not in text


def test_validation_accuracy_after_a_final_fit_is_marked_as_meaningless():
    text = comparison_table(EvaluationResults({"plain": make_results(0.9, 5, final_fit=True)}, {}), META, 0.95)
    assert "meaningless" in text
