"""Figures of images and grids: the tests check the drawn pixels, lines and numbers."""

import io

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from pipelines.visualization.figures import draw_rectified_batch, draw_sampling_grids, lay_out_cells
from stn import Affine, Parallel, Projective, ThinPlateSpline


def random_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Fractional pixel values in [0, 255], like the result of a warp."""
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(count)) * 255


def drawn_pixels(axes: Axes) -> np.ndarray:
    """Pixels (H, W, C) of the only image in ``axes``."""
    (image,) = axes.images
    pixels = np.asarray(image.get_array())
    return pixels if pixels.ndim == 3 else pixels[..., None]


def rounded(image: torch.Tensor) -> np.ndarray:
    return np.rint(image.numpy()).astype(np.uint8).transpose(1, 2, 0)


def draw_grids(images: torch.Tensor, theta: torch.Tensor, titles: list[str] | None = None):
    count, _, height, width = images.shape
    grids = Affine()(theta, height, width)
    figure = draw_sampling_grids(images, 255 - images, grids, Affine().matrix(theta), titles or ["title"] * count)
    figure.savefig(io.BytesIO())  # raises if the layout cannot be drawn
    return figure


@pytest.mark.parametrize("channels", [1, 3])
def test_rectified_batch_shows_every_image_before_and_after(channels):
    images, rectified = random_images(5, channels, 6, 9), random_images(7, channels, 6, 9)[:5]
    figure = draw_rectified_batch(images, rectified)
    figure.savefig(io.BytesIO())
    assert [axes.get_title() for axes in figure.axes] == ["input", "rectified"]
    for axes, batch in zip(figure.axes, (images, rectified), strict=True):
        mosaic = drawn_pixels(axes).copy()
        assert mosaic.dtype == np.uint8
        for i, image in enumerate(batch):  # five images in three rows of two, two pixels apart
            top, left = i // 2 * (6 + 2), i % 2 * (9 + 2)
            np.testing.assert_array_equal(mosaic[top : top + 6, left : left + 9], rounded(image))
            mosaic[top : top + 6, left : left + 9] = 255
        assert (mosaic == 255).all()  # white between the images and in place of a sixth


def test_gray_images_keep_their_brightness():
    dark = torch.full((1, 1, 4, 4), 40.0)
    for axes in draw_rectified_batch(dark, dark).axes:
        (image,) = axes.images
        # Neither stretched to the range of the image nor drawn in false colors.
        assert image.to_rgba(np.array([[40]], dtype=np.uint8), bytes=True)[0, 0, :3].tolist() == [40, 40, 40]


def test_the_identity_grid_spans_the_image():
    height, width = 9, 14
    figure = draw_grids(random_images(1, 3, height, width), torch.tensor([Affine.identity]))
    above, below = figure.axes
    assert len(below.lines) == 0
    lines = [np.asarray(line.get_xydata()) for line in above.lines]
    across = [xy for xy in lines if np.ptp(xy[:, 1]) < 1e-3]
    down = [xy for xy in lines if np.ptp(xy[:, 0]) < 1e-3]
    assert len(across) == len(down) == 7
    # imshow draws pixel centers at integers. The outermost centers are at 0 and at size - 1.
    for xy in across:
        np.testing.assert_allclose(xy[:, 0], np.arange(width), atol=1e-4)
    for xy in down:
        np.testing.assert_allclose(xy[:, 1], np.arange(height), atol=1e-4)
    rows, columns = [xy[0, 1] for xy in across], [xy[0, 0] for xy in down]
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((0, height - 1, 0, width - 1), abs=1e-4)
    np.testing.assert_allclose(rows, np.rint(rows), atol=1e-4)


def test_a_grid_is_drawn_where_it_samples():
    height, width = 10, 20
    # Half as wide, 0.25 of half the image to the right and 0.5 of half the image up.
    figure = draw_grids(random_images(1, 1, height, width), torch.tensor([[0.5, 0.0, 0.25, 0.0, 1.0, -0.5]]))
    points = np.concatenate([line.get_xydata() for line in figure.axes[0].lines])
    # In pixels: centers reach from -9.5 to 9.5 around 9.5, and from -4.5 to 4.5 around 4.5.
    assert (points[:, 0].min(), points[:, 0].max()) == pytest.approx((9.5 - 4.75 + 2.5, 9.5 + 4.75 + 2.5), abs=1e-4)
    assert (points[:, 1].min(), points[:, 1].max()) == pytest.approx((0 - 2.5, 9 - 2.5), abs=1e-4)
    # The part of the grid outside the image is visible, and y points down.
    bottom, top = figure.axes[0].get_ylim()
    left, right = figure.axes[0].get_xlim()
    assert top < -2.5 < height < bottom
    assert left < 0 < width < right


def test_each_image_is_above_its_rectified_image_with_title_and_theta():
    count = 11  # two double rows with eight and three images
    images = random_images(count, 3, 7, 7)
    theta = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    titles = [f"image {i}" for i in range(count)]
    axes = np.array(draw_grids(images, theta, titles).axes).reshape(4, 8)
    for i in range(count):
        above, below = axes[i // 8 * 2, i % 8], axes[i // 8 * 2 + 1, i % 8]
        np.testing.assert_array_equal(drawn_pixels(above), rounded(images[i]))
        np.testing.assert_array_equal(drawn_pixels(below), rounded(255 - images[i]))
        assert above.get_title() == titles[i]
        numbers = [[float(number) for number in row.split()] for row in below.get_title().splitlines()]
        np.testing.assert_allclose(numbers, theta[i].view(2, 3).numpy(), atol=0.00501)
    assert not any(ax.images or ax.lines or ax.axison for ax in axes[2:, 3:].flat)


def test_control_points_are_drawn_as_dots_without_numbers():
    height, width = 10, 20
    spline = ThinPlateSpline(control_points=3)
    theta = torch.tensor([spline.identity]) + 0.1 * torch.randn(1, 18, generator=torch.Generator().manual_seed(0))
    images = random_images(1, 1, height, width)
    figure = draw_sampling_grids(images, images, spline(theta, height, width), spline.readable(theta), ["title"])
    figure.savefig(io.BytesIO())
    above, below = figure.axes
    (dots,) = above.collections
    expected = (theta.view(9, 2).numpy() + 1) * (width, height) / 2 - 0.5
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), expected, atol=1e-4)
    assert below.get_title() == ""


def test_each_parallel_head_has_a_grid_in_its_own_color_and_numbers():
    height, width = 8, 8
    parallel = Parallel(Projective(), 2)
    theta = torch.tensor([parallel.identity] * 2) + 0.05
    theta[:, 10] += 0.5  # the second head samples half an image to the right
    images, rectified = random_images(2, 3, height, width), random_images(2, 3, 2 * 6, 5)
    grids = parallel(theta, 6, 5)
    figure = draw_sampling_grids(images, rectified, grids, parallel.readable(theta), ["one", "two"])
    figure.savefig(io.BytesIO())
    above, below = figure.axes[0], figure.axes[2]
    np.testing.assert_array_equal(drawn_pixels(below), rounded(rectified[0]))  # the heads' images stacked vertically
    by_color = {}
    for line in above.lines:
        by_color.setdefault(line.get_color(), []).append(np.asarray(line.get_xydata()))
    assert len(by_color) == 2
    for lines, grid in zip(by_color.values(), grids[0].chunk(2), strict=True):
        points = np.concatenate(lines)
        expected = (grid.reshape(-1, 2).numpy() + 1) * width / 2 - 0.5
        for axis in (0, 1):
            assert (points[:, axis].min(), points[:, axis].max()) == pytest.approx(
                (expected[:, axis].min(), expected[:, axis].max()), abs=1e-4
            )
    numbers = [[float(number) for number in row.split()] for row in below.get_title().splitlines()]
    np.testing.assert_allclose(numbers, parallel.readable(theta)[0].reshape(6, 3).numpy(), atol=0.00501)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 100), (24, 94), (94, 24), (20, 24)])
def test_images_of_every_shape_fill_their_cells(height, width):
    """Of the area of a figure of 16 images, the drawn images have a good part, and they are large enough to see."""
    images = random_images(16, 1, height, width)
    figure = draw_grids(images, torch.tensor([Affine.identity] * 16))
    figure.draw_without_rendering()
    below = [axes for axes in figure.axes if axes.images and axes.get_xlim()[0] > -1]
    assert len(below) == 16
    for axes in below:
        box = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        assert box.width * box.height > 0.5 and min(box.width, box.height) > 0.45
    columns, cell_height, cell_width = lay_out_cells(16, height, width)
    assert columns == (4 if width > 50 else 8) and cell_width <= 2.5 and 1 <= cell_height < 5
