"""The paper's table: its numbers compared with calculations by hand."""

from dataclasses import asdict

import numpy as np
import pytest

from experiments.paper import result_files
from experiments.paper.result_files import ColocalizationResult, Result
from experiments.paper.table import (
    OURS,
    OURS_LONG,
    draw_figure,
    make_cell,
    make_colocalization_table,
    make_metrics,
    make_table,
    make_tables,
)
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import write_json


def result(task: str, network: str, seed: int, error: float, **more) -> Result:
    return Result(
        task=task, network=network, seed=seed, test_error=error, validation_error=5.0, parameters=54321, epochs=7,
        train_images=60000, test_images=10000, seconds=12.3, device="CPU", precision="float32", **more,
    )  # fmt: skip


RESULTS = [result("R", "CNN", seed, error) for seed, error in enumerate((1.0, 2.0, 3.0))]
RESULTS += [result("TC", "FCN", 0, 20.0), result("addition", "2xST-FCN-tps", 0, 7.5)]


def test_the_interval_is_students():
    mean, half, n = make_cell([1.0, 2.0, 3.0])
    # The standard deviation is 1. Student's t at 0.975 with two degrees of freedom is 4.303.
    assert (mean, n) == (2.0, 3) and half == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert str(make_cell([1.0, 2.0, 3.0])) == "2.00 ± 2.48 (3)" and str(make_cell([4.5])) == "4.50 (1)"


def test_our_errors_are_beside_the_papers():
    lines = [
        [entry.strip() for entry in line.split("|")[1:-1]] for line in make_table(RESULTS).splitlines() if "|" in line
    ]
    assert lines[0] == ["", "R", "paper", "TC", "paper", "addition", "paper", "parameters"]
    assert {len(line) for line in lines} == {8}
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert rows == {
        "FCN": ["", "2.1", "20.00 (1)", "13.2", "", "47.7", "54,321"],
        "CNN": ["2.00 ± 2.48 (3)", "1.2", "", "3.5", "", "14.7", "54,321"],
        "2xST-FCN-tps": ["", "", "", "", "7.50 (1)", "5.8", "54,321"],
    }
    line = "5 trainings over 60,000 images, 10,000 test images; epochs: R 7, TC 7, addition 7; CPU, float32; 12 to 12 s"
    assert line in make_table(RESULTS)


def test_the_metrics_are_mean_errors():
    assert make_metrics(RESULTS) == {"R": {"CNN": 2.0}, "TC": {"FCN": 20.0}, "addition": {"2xST-FCN-tps": 7.5}}


def test_the_figure_has_a_point_for_each_network():
    axes = draw_figure(RESULTS).axes
    assert [a.get_title() for a in axes] == ["R", "TC", "addition"]
    points = {(line.get_marker(), np.asarray(line.get_xdata()).item(0)) for line in axes[0].lines}
    assert {("o", 2.0), ("D", 1.2)} <= points and axes[0].get_yticklabels()[0].get_text() == "CNN"


def test_results_of_the_papers_schedule_are_apart():
    both = [*RESULTS, result("R", "CNN", 0, 0.9, schedule="long"), result("R", "FCN", 0, 2.2, schedule="long")]
    short, long = make_tables(both).split("The same with the paper's schedule")
    assert short.rstrip() == make_table(RESULTS).rstrip() and make_tables(RESULTS) == make_table(RESULTS)
    assert "| CNN | 0.90 (1) | 1.2 |" in long and "2.00" not in long
    assert make_metrics(both) == {**make_metrics(RESULTS), "long": {"R": {"CNN": 0.9, "FCN": 2.2}}}
    panel = draw_figure(both).axes[0]
    points = {(line.get_marker(), np.asarray(line.get_xdata()).item(0)) for line in panel.lines}
    assert {("o", 2.0), ("s", 0.9), ("s", 2.2)} <= points


def test_the_legend_names_what_any_panel_shows():
    later = [*RESULTS, result("addition", "FCN", 0, 50.0, schedule="long")]
    for results, names in ((RESULTS, {"the paper's", OURS}), (later, {"the paper's", OURS, OURS_LONG})):
        (legend,) = draw_figure(results).legends
        assert {text.get_text() for text in legend.get_texts()} == names


def test_each_digit_has_a_column_and_each_row_a_mean():
    found = [
        ColocalizationResult(digit, images=100, starts=3, steps=400, T=translated, TC=cluttered)
        for digit, translated, cluttered in ((3, 100.0, 75.0), (7, 90.0, 84.0))
    ]
    lines = [line for line in make_colocalization_table(found).splitlines() if line.startswith("| ")]
    assert lines == [
        "| digit | 3 | 7 | mean | paper |",
        "| translated | 100 | 90 | 95.0 | 100 |",
        "| translated, cluttered | 75 | 84 | 79.5 | 75 to 93 |",
    ]


def test_without_results_the_error_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="make paper"):
        result_files.load_results()
    write_json(tmp_path / "R" / "CNN" / "0.json", asdict(RESULTS[0]))
    assert result_files.load_results() == RESULTS[:1]
