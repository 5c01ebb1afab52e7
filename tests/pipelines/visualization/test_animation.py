"""Filmstrip and animation: drawn pixels equal the given pixels, and lines follow the grid."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from PIL.PngImagePlugin import PngImageFile

from pipelines.visualization.animation import FRAME_MS, LAST_FRAME_MS, draw_filmstrip, draw_frame, write_animation
from pipelines.visualization.figures import HEAD_COLORS
from stn.transforms import Affine


def random_pixels(*shape: int) -> torch.Tensor:
    """Integer pixel values in [0, 255]."""
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).float()


def grids_of(*theta: list[float], size: tuple[int, int] = (12, 12)) -> torch.Tensor:
    """Affine sampling grids (1, heads, h, w, 2), one for each θ."""
    return Affine()(torch.tensor(theta), *size)[None]


@pytest.mark.parametrize(("channels", "size"), [(1, (10, 10)), (3, (16, 10)), (1, (6, 14))])
def test_a_filmstrip_shows_every_image_in_its_cell(channels, size):
    images = random_pixels(3, channels, 10, 10)
    rectified = {1: random_pixels(3, channels, *size), 9: random_pixels(3, channels, *size)}
    figure = draw_filmstrip(images, rectified, ["cat", "dog", "eel"])
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["input", "epoch 1", "epoch 9"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "eel"]
    shown = np.asarray(axes.images[0].get_array())
    shown = shown if channels > 1 else shown[..., None]
    for x, batch in zip(axes.get_xticks(), (images, *rectified.values()), strict=True):
        for y, image in zip(axes.get_yticks(), batch, strict=True):
            h, w = image.shape[1:]
            top, left = round(y - (h - 1) / 2), round(x - (w - 1) / 2)  # a tick is at the center of its image
            np.testing.assert_array_equal(shown[top : top + h, left : left + w], image.permute(1, 2, 0))


@pytest.mark.parametrize("size", [(32, 32), (20, 40)])
def test_a_frame_shows_the_rectified_image_enlarged_pixel_by_pixel(size):
    """The rectified image is at the bottom, enlarged by a factor of three or two."""
    images, rectified = random_pixels(1, 3, *size), random_pixels(1, 3, *size)
    picture = np.asarray(draw_frame(images, rectified, grids_of([1.0, 0, 0, 0, 1, 0], size=size), "epoch 3"))
    factor = 96 // max(size)
    h, w = size[0] * factor, size[1] * factor
    left = (picture.shape[1] - w) // 2
    below = picture[-h - 8 : -8, left : left + w]  # above the gap
    np.testing.assert_array_equal(below[::factor, ::factor], rectified[0].permute(1, 2, 0))
    np.testing.assert_array_equal(below, below[::factor, ::factor].repeat(factor, 0).repeat(factor, 1))


def test_the_lines_follow_the_grid():
    """A white image with three heads: on its left half, on its right half and outside of the frame."""
    half = [0.5, 0, 0, 0, 0.5, 0]
    moved = [[*half[:2], x, *half[3:]] for x in (-0.5, 0.5)]
    far = [1.0, 0, 0, 0, 1, 50]
    image = torch.full((1, 1, 32, 32), 255.0)
    picture = np.asarray(draw_frame(image, image, grids_of(*moved, far, size=(32, 32)), "")).astype(int)
    inside = picture[20 + 24 : 20 + 24 + 96, 24 : 24 + 96]  # below the caption and the margin

    def drawn(head: int, columns: slice) -> bool:
        color = np.array(ImageColor.getrgb(HEAD_COLORS[head]))
        return bool((np.abs(inside[24:72, columns] - color).max(-1) < 10).any())

    assert drawn(0, slice(0, 46)) and not drawn(0, slice(50, 96))
    assert drawn(1, slice(50, 96)) and not drawn(1, slice(0, 46))
    assert (inside[:22] == 255).all() and (inside[75:] == 255).all()
    rows = np.flatnonzero((picture[20 + 24 + 96 + 24 :] != 255).any((1, 2)))
    assert rows.size == 0, "lines of the third head overlap the rectified image"


def test_images_of_any_size_fit_into_a_frame():
    for size in ((4, 4), (200, 50), (1024, 1024)):
        image = random_pixels(7, 1, *size)
        picture = draw_frame(image, image, grids_of([1.0, 0, 0, 0, 1, 0]).expand(7, -1, -1, -1, -1), "epoch 1")
        assert picture.width <= 5 * (96 * 1.5 + 8) and picture.height <= 20 + 2 * (96 * 2.5 + 8)


def test_an_animation_is_read_back_frame_by_frame(tmp_path):
    frames = [Image.fromarray(random_pixels(20, 30, 3).byte().numpy() // 16 * step) for step in range(1, 5)]
    write_animation(frames, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        assert isinstance(read, PngImageFile) and read.n_frames == 4 and read.info["loop"] == 0
        for number, expected in enumerate(frames):
            read.seek(number)
            assert read.info["duration"] == (LAST_FRAME_MS if number == 3 else FRAME_MS)
            np.testing.assert_array_equal(read.convert("RGB"), expected)
    write_animation(frames[:1], tmp_path / "one.png")
    np.testing.assert_array_equal(Image.open(tmp_path / "one.png"), frames[0])
