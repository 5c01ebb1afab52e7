"""predict: the command line, and a full disk; predictions are tested in serving/test_prediction.py."""

import sys

import numpy as np
import pytest
from PIL import Image

from pipelines.commands import predict

NAME = "stn-mine"


@pytest.fixture
def image(store, tmp_path, monkeypatch):
    """Writes an image, and names it on the command line."""

    def write(name: str) -> None:
        pixels = np.random.default_rng(0).integers(0, 128, (60, 60), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        monkeypatch.setattr(sys, "argv", ["predict", NAME, str(tmp_path / name), "--version", "2"])

    return write


def test_the_table_is_printed(image, capsys):
    image("an image.png")
    predict.main()
    assert "stn-mine, version 2 (stn)" in capsys.readouterr().out


def test_a_full_disk_leaves_no_half_picture(image, tmp_path, monkeypatch, files_of_at_most):
    image("a.png")
    save = Image.Image.save

    def save_within(image, target, *arguments):
        with files_of_at_most(100):
            save(image, target, *arguments)

    monkeypatch.setattr(Image.Image, "save", save_within)
    with pytest.raises(OSError, match=r"File too large: .*a\.rectified\.png"):
        predict.main()
    assert [path.name for path in tmp_path.glob("*.png")] == ["a.png"] and not list(tmp_path.glob(".*.png"))
