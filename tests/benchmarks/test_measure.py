"""Results of benchmarks: formatting, storage and comparison; isolated processes."""

import json
import sys

import pytest

from benchmarks import measure


def test_mean_and_standard_deviation_of_a_sample():
    assert measure.format_spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert measure.format_spread([4321.0]) == "4,321 ± 0"


def test_results_are_stored_in_full_and_compared_by_metric(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    measure.report("throughput", {"speed, images/s": [100.0, 110.0], "removed, s": [1.0]})
    (old,) = tmp_path.glob("throughput-*.json")
    assert json.loads(old.read_text())["metrics"]["speed, images/s"] == [100.0, 110.0]
    old = old.rename(tmp_path / "old.json")
    measure.report("throughput", {"speed, images/s": [210.0]})
    (new,) = tmp_path.glob("throughput-*.json")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["measure", str(old), str(new)])
    measure.main()
    *_, line = capsys.readouterr().out.strip().splitlines()
    assert line.split()[:2] == ["speed,", "images/s"] and line.endswith("× 2.00")
    assert "105.0 ± 7.1" in line and "removed" not in line


@pytest.mark.slow
def test_a_process_keeps_its_state_and_shares_nothing():
    with measure.start_process() as one, measure.start_process() as other:
        one.submit(set_value, "first").result()
        assert one.submit(get_value).result() == "first"
        with pytest.raises(IndexError):
            other.submit(get_value).result()


state: list[str] = []


def set_value(value: str) -> None:
    state.append(value)


def get_value() -> str:
    return state[0]
