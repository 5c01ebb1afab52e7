"""predict: the command line, and folders that cannot be written; see also serving/test_prediction.py."""

import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.commands import predict
from pipelines.runtime.errors import ExternalError, UserError

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


def test_a_full_disk_leaves_no_half_picture(image, tmp_path, monkeypatch, capsys, files_of_at_most):
    image("a.png")
    save = Image.Image.save

    def save_within(image, target, *arguments):
        with files_of_at_most(100):
            save(image, target, *arguments)

    monkeypatch.setattr(Image.Image, "save", save_within)
    with pytest.raises(ExternalError, match=r"a\.rectified\.png: File too large; .*OUT=folder"):
        predict.main()
    assert "stn-mine, version 2 (stn)" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("*.png")] == ["a.png"] and not list(tmp_path.glob(".*.png"))


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.EROFS])
def test_where_pictures_cannot_be_written_the_prediction_is_shown(image, tmp_path, monkeypatch, capsys, refusal):
    image("a.png")
    open_file = io.open

    def open_elsewhere(file, mode="r", *arguments, **options):
        if "w" in mode and Path(str(file)).parent == tmp_path:
            raise OSError(refusal, os.strerror(refusal), file)
        return open_file(file, mode, *arguments, **options)

    monkeypatch.setattr("builtins.open", open_elsewhere)
    with pytest.raises(ExternalError, match=rf"a\.rectified\.png: {os.strerror(refusal)}; .*, or .*OUT=folder"):
        predict.main()
    shown = capsys.readouterr().out
    assert "stn-mine, version 2 (stn)" in shown and "a.png" in shown and "rectified.png" not in shown

    monkeypatch.setattr(sys, "argv", [*sys.argv, "--out", str(tmp_path / "new/pictures")])
    predict.main()
    assert str(tmp_path / "new/pictures/a.rectified.png") in capsys.readouterr().out
    assert (tmp_path / "new/pictures/a.rectified.png").exists()


def test_out_must_be_a_folder(image, tmp_path, monkeypatch):
    image("a.png")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--out", str(tmp_path / "a.png")])
    with pytest.raises(UserError, match=r"OUT: '.*a\.png' given; it is a file, expected a folder"):
        predict.main()


def test_text_in_brackets_is_no_markup(image, capsys):
    image("a[red].png")
    predict.main()
    assert "a[red].png" in capsys.readouterr().out
