"""summary: the layers of a variant, without data."""

import sys
from pathlib import Path

import pytest

from pipelines.commands import summary
from pipelines.params import set_value
from pipelines.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def table(tmp_path, monkeypatch, capsys):
    """Prints the table of a variant for a data set, in a folder that has only settings."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "variants").symlink_to(ROOT / "variants")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def print_table(variant: str, dataset: str) -> str:
        set_value(f"data.dataset={dataset}")
        monkeypatch.setattr(sys, "argv", ["summary", variant])
        summary.main()
        return capsys.readouterr().out

    return print_table


@pytest.mark.parametrize(
    ("variant", "dataset", "parameters", "multiply_adds"),
    [
        ("stn", "cifar10", "39,884", "2,100,364"),
        ("plain", "cifar10", "31,340", "1,113,500"),
        ("stn", "mnist", "27,360", "783,844"),
        ("plain", "mnist", "21,840", "480,500"),
    ],
)
def test_totals(table, variant, dataset, parameters, multiply_adds):
    total = table(variant, dataset).splitlines()[-2]
    assert parameters in total and multiply_adds in total


def test_the_image_shape_is_that_of_the_canvas(table):
    set_value("data.distortion.protocol=TC")
    assert "1×60×60" in table("plain", "mnist")


def test_the_classes_of_an_unknown_data_set_are_marked_as_assumed(table):
    assert "assumed" in table("stn", "flowers")
    with pytest.raises(UserError, match="there are: plain, "):
        table("nothing", "cifar10")
