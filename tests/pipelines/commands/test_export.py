"""export: errors in its arguments, and what it prints."""

import sys

import pytest

from pipelines.commands import export
from pipelines.runtime.errors import UserError

NAME = "stn-mine"


def refused(monkeypatch, *arguments: str) -> str:
    """The message of the UserError that ends the command."""
    monkeypatch.setattr(sys, "argv", ["export", NAME, *arguments])
    with pytest.raises(UserError) as error:
        export.main()
    return str(error.value)


def test_an_unknown_format_is_refused(monkeypatch):
    assert refused(monkeypatch, "--format=tflite") == "FORMAT: 'tflite' given; expected onnx or pt2"


def test_without_its_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name.startswith("onnxs") else "found")
    message = refused(monkeypatch)
    assert message.startswith("FORMAT: 'onnx' given; it needs onnxscript: ") and "stn-pipelines[export]" in message
    export.check_format("pt2")


def test_a_folder_is_no_file(monkeypatch, tmp_path):
    assert refused(monkeypatch, f"--out={tmp_path}").endswith("it is a folder, expected a file")


def test_the_largest_difference_is_printed(store, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["export", NAME, "--format=pt2", f"--out={tmp_path / 'a.pt2'}"])
    export.main()
    printed = capsys.readouterr().out
    assert f"stn-mine, version 1 (stn): {tmp_path / 'a.pt2'}" in printed
    assert "largest difference from the model on 200 test images: probabilities 0.0e+00, theta 0.0e+00" in printed
