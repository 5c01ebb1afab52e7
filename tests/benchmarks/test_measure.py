"""How benchmarks keep and compare their results."""

import json
import sys

import pytest

from benchmarks import measure


def test_mean_and_standard_deviation_of_a_sample():
    assert measure.spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert measure.spread([4321.0]) == "4,321 ± 0"


def test_results_are_kept_whole_and_compared_by_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    measure.report("throughput", {"images a second": [100.0, 110.0], "gone, s": [1.0]})
    (old,) = tmp_path.glob("throughput-*.json")
    assert json.loads(old.read_text())["figures"]["images a second"] == [100.0, 110.0]
    old = old.rename(tmp_path / "old.json")
    measure.report("throughput", {"images a second": [210.0]})
    (new,) = tmp_path.glob("throughput-*.json")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["measure", str(old), str(new)])
    measure.main()
    *_, line = capsys.readouterr().out.strip().splitlines()
    assert line.split()[:3] == ["images", "a", "second"] and line.endswith("× 2.00")
    assert "105.0 ± 7.1" in line and "gone" not in line


def test_a_side_keeps_what_it_holds_and_shares_nothing():
    with measure.side() as one, measure.side() as other:
        one.submit(measure_in, "first").result()
        assert one.submit(measure_out).result() == "first"
        with pytest.raises(KeyError):
            other.submit(measure_out).result()


held: dict[str, str] = {}


def measure_in(value: str) -> None:
    held["value"] = value


def measure_out() -> str:
    return held["value"]
