"""The paper's table: its figures against those worked out by hand."""

import numpy as np
import pytest

from experiments.paper import table
from experiments.paper.table import cell, colocalization_table, figure, markdown
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import write_json


def result(task: str, network: str, seed: int, error: float) -> dict:
    return {
        "task": task, "network": network, "seed": seed, "test_error": error, "parameters": 54321, "epochs": 7,
        "train_images": 60000, "test_images": 10000, "seconds": 12.3, "device": "CPU", "precision": "float32",
    }  # fmt: skip


RESULTS = [result("R", "CNN", seed, error) for seed, error in enumerate((1.0, 2.0, 3.0))]
RESULTS += [result("TC", "FCN", 0, 20.0), result("addition", "2xST-FCN-tps", 0, 7.5)]


def test_the_interval_is_students():
    mean, half, n = cell([1.0, 2.0, 3.0])
    # The standard deviation is 1, and t at 0.975 with two degrees of freedom 4.303, by any table of it.
    assert (mean, n) == (2.0, 3) and half == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert str(cell([1.0, 2.0, 3.0])) == "2.00 ± 2.48 (3)" and str(cell([4.5])) == "4.50 (1)"


def test_ours_stands_beside_the_papers():
    lines = [
        [entry.strip() for entry in line.split("|")[1:-1]] for line in markdown(RESULTS).splitlines() if "|" in line
    ]
    assert lines[0] == ["", "R", "paper", "TC", "paper", "addition", "paper", "parameters"]
    assert {len(line) for line in lines} == {8}
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert rows == {
        "FCN": ["", "2.1", "20.00 (1)", "13.2", "", "47.7", "54,321"],
        "CNN": ["2.00 ± 2.48 (3)", "1.2", "", "3.5", "", "14.7", "54,321"],
        "2xST-FCN-tps": ["", "", "", "", "7.50 (1)", "5.8", "54,321"],
    }
    said = "5 trainings over 60,000 images, 10,000 test images; epochs: R 7, TC 7, addition 7; CPU, float32; 12 to 12 s"
    assert said in markdown(RESULTS)


def test_the_figure_has_a_point_for_each_network():
    axes = figure(RESULTS).axes
    assert [a.get_title() for a in axes] == ["R", "TC", "addition"]
    shown = {(line.get_marker(), np.asarray(line.get_xdata()).item(0)) for line in axes[0].lines}
    assert {("o", 2.0), ("D", 1.2)} <= shown and axes[0].get_yticklabels()[0].get_text() == "CNN"


def test_each_digit_has_a_column_and_all_a_mean():
    found = [{"digit": 3, "T": 100.0, "TC": 75.0}, {"digit": 7, "T": 90.0, "TC": 84.0}]
    lines = [line for line in colocalization_table(found).splitlines() if line.startswith("| ")]
    assert lines == [
        "| digit | 3 | 7 | mean | paper |",
        "| translated | 100 | 90 | 95.0 | 100 |",
        "| translated, cluttered | 75 | 84 | 79.5 | 75 to 93 |",
    ]


def test_without_results_it_says_how_to_make_some(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="make paper"):
        table.load_results()
    write_json(tmp_path / "R" / "CNN" / "0.json", RESULTS[0])
    assert table.load_results() == RESULTS[:1]
