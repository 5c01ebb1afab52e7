"""Predictions for image files: classes, θ and rectified images; θ of the registry's versions is a quarter turn."""

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.preparation.images import to_pixels
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.serving import prediction
from pipelines.serving.prediction import make_table, name_pictures, predict
from pipelines.settings.image_form import ImageForm

IDENTITY = np.array([[[1.0, 0, 0], [0, 1, 0]]])
NAME = "stn-mine"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_the_table_and_the_pictures(store, tmp_path):
    """Two images with the same stem keep both pictures. A color image of another size is converted for the model."""
    gray = np.zeros((8, 8), dtype=np.uint8)
    gray[0, 0], gray[2:5, 2] = 6, 250  # the first pixel is the index of a test image; 6 is an eel, correct in version 1
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(gray).save(tmp_path / "one.png")
    Image.fromarray(noise(30, 20, 3)).save(tmp_path / "a.bmp")
    table = make_table(predict(NAME, "champion", [str(tmp_path / name) for name in ("a.png", "a.bmp", "one.png")]))
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["class"][0] == columns["class"][2] == "eel"
    assert columns["rotation"] == ["-90°"] * 3 and set(columns["scale"]) == {"1.00"}
    assert next(iter(table.columns[2].cells)) == "70.0%"
    names = {path.name for path in tmp_path.glob("*.rectified.png")}
    assert names == {"a.png.rectified.png", "a.bmp.rectified.png", "one.rectified.png"}
    assert [str(tmp_path / name) for name in ("a.png.rectified.png", "a.bmp.rectified.png", "one.rectified.png")] == [
        *columns["rectified"]
    ]
    # The grid is turned by 90° counterclockwise, so the content is turned clockwise.
    rectified = np.asarray(Image.open(tmp_path / "one.rectified.png"))
    np.testing.assert_array_equal(rectified, np.rot90(gray, -1))
    assert Image.open(tmp_path / "a.bmp.rectified.png").size == (20, 30)


def test_pictures_of_different_images_have_different_names():
    paths = [Path(name) for name in ("x/a.png", "y/a.png", "x/a.jpg", "x/a.png.gif", "x/b.png")]
    assert [str(path.parent) for path in name_pictures(paths)] == ["x", "y", "x", "x", "x"]
    for out in (None, Path("out")):
        assert len(set(name_pictures(paths, out))) == len(paths)
    assert [path.name for path in name_pictures(paths[:2], Path("out"))] == [
        "a.png.rectified.png",
        "a.png.2.rectified.png",
    ]


def test_a_negative_resolution_in_exif_is_no_reason_to_refuse(store, tmp_path):
    """EXIF says that the image lies on its side."""
    pixels = noise(8, 12)
    entries = struct.pack("<HHHIIHHIIIii", 2, 0x0112, 3, 1, 6, 0x011A, 10, 1, 38, 0, -1, 1)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\x08\0\0\0" + entries)
    (row,) = predict(NAME, "champion", [str(tmp_path / "a.png")]).rows
    assert row.rectified is not None
    # θ turns the content clockwise once more.
    np.testing.assert_array_equal(np.asarray(Image.open(row.rectified)).shape, (12, 8))


def test_with_a_canvas_the_image_is_in_its_middle(store, tmp_path, monkeypatch):
    """The canvas of protocol TC is 60/28 of the image: 8 pixels of content in 17. Rectified images have it, too."""
    inputs = []
    outputs = {"class": np.array([0]), "probabilities": np.eye(4)[:1], "theta": IDENTITY}
    meta = DatasetMeta(
        dataset="mine", source="mine.zip", classes=list("abcd"), image_shape=(1, 17, 17), counts={}, mean=[0.0],
        std=[1.0], distortion={"protocol": "TC", "padding_mode": "zeros"}, duplicates={}, broken={}, digest="d1",
    )  # fmt: skip
    variant = SimpleNamespace(front=SimpleNamespace(padding_mode="zeros"))
    trained: Any = SimpleNamespace(variant="stn", record=SimpleNamespace(variant=variant))
    model = SimpleNamespace(
        metadata=SimpleNamespace(metadata=ModelMetadata.from_trained(trained, meta).to_json()),
        predict=lambda images: inputs.append(images) or outputs,
    )
    monkeypatch.setattr(prediction.mlflow.pyfunc, "load_model", lambda _: model)
    pixels = noise(28, 28)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict(NAME, "champion", [str(tmp_path / "a.png")])
    (images,) = inputs
    assert images.shape == (1, 1, 17, 17) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[0, 0, 4:12, 4:12], to_pixels(Image.fromarray(pixels), ImageForm(8, 8, 1))[0])
    assert images.sum() == images[0, 0, 4:12, 4:12].sum(), "the canvas is not black"
    rectified = np.asarray(Image.open(tmp_path / "a.rectified.png"))
    assert rectified.shape == (60, 60) and rectified.sum() == pixels.sum()
    np.testing.assert_array_equal(rectified[16:44, 16:44], pixels)


def test_pixels_of_more_than_8_bits_have_the_range_of_the_training_images(tmp_path, monkeypatch):
    inputs = []
    metadata = {"dataset": "mine", "classes": ["a", "b"], "image_shape": [1, 8, 8], "mean": [0.0], "variant": "plain",
                "padding_mode": None}  # fmt: skip
    model: Any = SimpleNamespace(
        metadata=SimpleNamespace(metadata={**metadata, "pixel_range": [0, 4095]}),
        predict=lambda images: inputs.append(images) or {"class": np.array([0]), "probabilities": np.eye(2)[:1]},
    )
    monkeypatch.setattr(prediction, "connect", lambda: None)
    monkeypatch.setattr(prediction, "find_version", lambda *_: SimpleNamespace(version=1))
    monkeypatch.setattr(prediction, "fetch_files", lambda *_: tmp_path)
    monkeypatch.setattr(prediction.mlflow.pyfunc, "load_model", lambda _: model)
    deep = np.random.default_rng(0).integers(0, 2000, (8, 8)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    predict(NAME, "champion", [str(tmp_path / "a.png")])
    np.testing.assert_allclose(inputs[0][0, 0], deep / 4095 * 255, atol=1)

    model.metadata.metadata = metadata  # trained on 8 bits
    with pytest.raises(UserError, match=r"its pixels are \d+ to \d+, but the training images had 8 bits"):
        predict(NAME, "champion", [str(tmp_path / "a.png")])
    whole = deep * 32
    whole[0, 0] = 65535
    Image.fromarray(whole).save(tmp_path / "a.png")
    predict(NAME, "champion", [str(tmp_path / "a.png")])
    np.testing.assert_allclose(inputs[1][0, 0], whole / 257, atol=1)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"", "not a readable"), (b"GIF89a", "not a")]
)
def test_an_unreadable_image_is_named_before_a_model_is_loaded(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(prediction, "connect", lambda: pytest.fail("went on"))
    path = tmp_path / "it.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"IMAGES: '{path}' given; .*{message}"):
        predict(NAME, "champion", [str(path)])


def test_a_version_without_metadata_is_refused(store, tmp_path, monkeypatch):
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    load_model = prediction.mlflow.pyfunc.load_model

    def load_without_metadata(path: str):
        model = load_model(path)
        model.metadata.metadata = None
        return model

    monkeypatch.setattr(prediction.mlflow.pyfunc, "load_model", load_without_metadata)
    with pytest.raises(ExternalError, match="version 1 of stn-mine is too old"):
        predict(NAME, "champion", [str(tmp_path / "a.png")])
