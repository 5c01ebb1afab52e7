"""summary: the layers of a variant, without data."""

import sys
from pathlib import Path

import pytest

from pipelines.commands import summary
from pipelines.outputs.prepared_data import PREPARED, DatasetMeta
from pipelines.params import set_value
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import write_json

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


def test_classes_are_counted_by_prepare_and_assumed_before(table, tmp_path):
    assert "10 classes (assumed until" in " ".join(table("stn", "cifar100").split())
    meta = DatasetMeta(
        dataset="cifar100", source="memory", image_shape=(3, 32, 32), classes=[str(i) for i in range(100)], counts={},
        mean=[0.0] * 3, std=[1.0] * 3, duplicates={}, broken={}, digest="0" * 64, distortion={},
    )  # fmt: skip
    write_json(tmp_path / PREPARED / "meta.json", meta.to_json())
    counted = table("stn", "cifar100")
    assert "100 classes" in counted and "assumed" not in counted
    assert "assumed" in table("stn", "cifar10"), "other data are prepared"
    with pytest.raises(UserError, match="there are: plain, "):
        table("nothing", "cifar10")
