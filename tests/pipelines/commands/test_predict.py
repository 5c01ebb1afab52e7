"""predict: images of any kind in, classes and rectified images out; the registry's versions turn by 90 degrees."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.commands import predict as module
from pipelines.commands.predict import predict
from pipelines.preparation.images import to_pixels
from pipelines.registry import registration
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.serving.rectification import family_of, rectify
from stn import Affine, Parallel, Projective, Similarity, ThinPlateSpline

IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])
NAME = "stn-mine"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_full_disk_leaves_no_half_picture(store, tmp_path, monkeypatch, files_of_at_most):
    Image.fromarray(noise(60, 60, 3)).save(tmp_path / "a.png")
    save = Image.Image.save

    def save_within(image, target, *arguments):
        with files_of_at_most(100):
            save(image, target, *arguments)

    monkeypatch.setattr(Image.Image, "save", save_within)
    with pytest.raises(OSError, match=r"File too large: .*a\.rectified\.png"):
        predict(NAME, "champion", [str(tmp_path / "a.png")])
    assert [path.name for path in tmp_path.glob("*.png")] == ["a.png"] and not list(tmp_path.glob(".*.png"))


@pytest.mark.parametrize("shape", [(9, 9), (9, 7, 3)])
def test_the_identity_returns_the_image(shape):
    pixels = noise(*shape)
    mean = [0.5] * (1 if len(shape) == 2 else 3)
    image = rectify(Image.fromarray(pixels), *family_of(IDENTITY[None]), mean, "zeros")
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_half_a_turn_and_what_lies_outside():
    pixels = noise(6, 4, 3)
    turned = np.asarray(rectify(Image.fromarray(pixels), *family_of(-IDENTITY[None]), [0.5] * 3, "border"))
    np.testing.assert_array_equal(turned, pixels[::-1, ::-1])
    # Looking twice as far, the middle is the image at half size and outside is the mean that was subtracted.
    far = np.asarray(rectify(Image.fromarray(pixels), *family_of(4 * IDENTITY[None]), [0.2, 0.4, 0.6], "zeros"))
    assert far[0, 0].tolist() == [51, 102, 153]


@pytest.mark.parametrize(
    "transform",
    [Affine(), Similarity(), Projective(), ThinPlateSpline(control_points=3), Parallel(Similarity(), 2)],
    ids=lambda transform: type(transform).__name__,
)
def test_each_family_is_known_by_the_form_of_its_theta(transform):
    """What a registered model answers leads to the grid that its network sampled on."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor(transform.identity) + 0.1 * torch.randn(4, len(transform.identity), generator=generator)
    family, own = family_of(transform.readable(theta).numpy())
    torch.testing.assert_close(family(own, 6, 5), transform(theta, 6, 5))


def test_the_table_and_the_pictures(store, tmp_path):
    """Both kinds of one name keep both pictures; a color image of another size is brought to the model's form."""
    gray = np.zeros((8, 8), dtype=np.uint8)
    gray[0, 0], gray[2:5, 2] = 6, 250  # the first pixel numbers a test image: 6 is an eel, and right in version 1
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(gray).save(tmp_path / "one.png")
    Image.fromarray(noise(30, 20, 3)).save(tmp_path / "a.bmp")
    table = predict(NAME, "champion", [str(tmp_path / name) for name in ("a.png", "a.bmp", "one.png")])
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["class"][0] == columns["class"][2] == "eel"
    assert columns["rotation"] == ["-90°"] * 3 and set(columns["scale"]) == {"1.00"}
    assert next(iter(table.columns[2].cells)) == "70.0%"
    names = {path.name for path in tmp_path.glob("*.rectified.png")}
    assert names == {"a.png.rectified.png", "a.bmp.rectified.png", "one.rectified.png"}
    # θ looks to the right where the output looks down: the image turned counterclockwise once is clockwise here.
    rectified = np.asarray(Image.open(tmp_path / "one.rectified.png"))
    np.testing.assert_array_equal(rectified, np.rot90(gray, -1))
    assert Image.open(tmp_path / "a.bmp.rectified.png").size == (20, 30)


def test_where_training_had_a_canvas_an_image_lies_in_its_middle(store, tmp_path, monkeypatch):
    """60/28 of its size, as of the protocol TC: 8 pixels of content among 17; its rectified form has a canvas, too."""
    seen = []
    of_class = {"class": np.array([0]), "probabilities": np.eye(4)[:1], "theta": IDENTITY[None]}
    meta = {"dataset": "mine", "classes": list("abcd"), "image_shape": [1, 17, 17], "mean": [0.0]}
    meta["distortion"] = {"protocol": "TC", "padding_mode": "zeros"}
    trained: Any = SimpleNamespace(variant="stn", record={"variant": {"transformer": {"padding_mode": "zeros"}}})
    model = SimpleNamespace(
        metadata=SimpleNamespace(metadata=registration._about(trained, meta)),
        predict=lambda images: seen.append(images) or of_class,
    )
    monkeypatch.setattr(module.mlflow.pyfunc, "load_model", lambda _: model)
    pixels = noise(28, 28)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict(NAME, "champion", [str(tmp_path / "a.png")])
    (images,) = seen
    assert images.shape == (1, 1, 17, 17) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[0, 0, 4:12, 4:12], to_pixels(Image.fromarray(pixels), 8, 1)[0])
    assert images.sum() == images[0, 0, 4:12, 4:12].sum()  # and around it nothing
    rectified = np.asarray(Image.open(tmp_path / "a.rectified.png"))
    assert rectified.shape == (60, 60) and rectified.sum() == pixels.sum()
    np.testing.assert_array_equal(rectified[16:44, 16:44], pixels)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"", "not a readable"), (b"GIF89a", "not a")]
)
def test_a_file_that_is_no_image_is_named_before_anything_is_loaded(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(module, "connect", lambda: pytest.fail("went on"))
    path = tmp_path / "it.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"IMAGES: '{path}' given; .*{message}"):
        predict(NAME, "champion", [str(path)])


def test_a_version_that_does_not_know_its_classes(store, tmp_path, monkeypatch):
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    loaded = module.mlflow.pyfunc.load_model

    def old(path: str):
        model = loaded(path)
        model.metadata.metadata = None
        return model

    monkeypatch.setattr(module.mlflow.pyfunc, "load_model", old)
    with pytest.raises(ExternalError, match="version 1 of stn-mine is too old"):
        predict(NAME, "champion", [str(tmp_path / "a.png")])


def test_from_the_command_line(store, tmp_path, monkeypatch, capsys):
    Image.fromarray(noise(8, 8) // 2).save(tmp_path / "an image.png")
    monkeypatch.setattr(sys, "argv", ["predict", NAME, str(tmp_path / "an image.png"), "--version", "2"])
    module.main()
    assert "stn-mine, version 2 (seed)" in capsys.readouterr().out
