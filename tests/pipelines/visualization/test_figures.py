"""Figures of θ: the pixels, lines and numbers that are drawn, not only that something is."""

import io

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from pipelines.visualization.figures import (
    learning_curves,
    rectified_batch,
    reliability_diagrams,
    robustness_curves,
    sampling_grids,
    theta_distributions,
)
from stn import Affine, Parallel, Projective, ThinPlateSpline


def random_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Pixel values in [0, 255] that are not whole numbers, as a warp returns them."""
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(count)) * 255


def shown(axes: Axes) -> np.ndarray:
    """The pixels of the one picture in ``axes``, always with a last dimension of channels."""
    (image,) = axes.images
    pixels = np.asarray(image.get_array())
    return pixels if pixels.ndim == 3 else pixels[..., None]


def rounded(image: torch.Tensor) -> np.ndarray:
    return np.rint(image.numpy()).astype(np.uint8).transpose(1, 2, 0)


def draw_grids(images: torch.Tensor, theta: torch.Tensor, titles: list[str] | None = None):
    count, _, height, width = images.shape
    grids = Affine()(theta, height, width)
    figure = sampling_grids(images, 255 - images, grids, Affine().matrix(theta), titles or ["title"] * count)
    figure.savefig(io.BytesIO())  # a layout that cannot be drawn fails here
    return figure


@pytest.mark.parametrize("channels", [1, 3])
def test_rectified_batch_shows_every_image_before_and_after(channels):
    images, rectified = random_images(5, channels, 6, 9), random_images(7, channels, 6, 9)[:5]
    figure = rectified_batch(images, rectified)
    figure.savefig(io.BytesIO())
    assert [axes.get_title() for axes in figure.axes] == ["input", "rectified"]
    for axes, batch in zip(figure.axes, (images, rectified), strict=True):
        mosaic = shown(axes).copy()
        assert mosaic.dtype == np.uint8
        for i, image in enumerate(batch):  # five images in two rows of three, row by row, two pixels apart
            top, left = i // 3 * (6 + 2), i % 3 * (9 + 2)
            np.testing.assert_array_equal(mosaic[top : top + 6, left : left + 9], rounded(image))
            mosaic[top : top + 6, left : left + 9] = 255
        assert (mosaic == 255).all()  # white between the images and where the sixth is missing


def test_gray_images_are_shown_at_their_own_brightness():
    dark = torch.full((1, 1, 4, 4), 40.0)
    for axes in rectified_batch(dark, dark).axes:
        (image,) = axes.images
        # Neither stretched to the image's own range nor drawn in false colors.
        assert image.to_rgba(np.array([[40]], dtype=np.uint8), bytes=True)[0, 0, :3].tolist() == [40, 40, 40]


def test_the_identitys_grid_reaches_from_border_to_border():
    height, width = 9, 14
    figure = draw_grids(random_images(1, 3, height, width), torch.tensor([Affine.identity]))
    above, below = figure.axes
    assert len(below.lines) == 0
    lines = [np.asarray(line.get_xydata()) for line in above.lines]
    across = [xy for xy in lines if np.ptp(xy[:, 1]) < 1e-3]
    down = [xy for xy in lines if np.ptp(xy[:, 0]) < 1e-3]
    assert len(across) == len(down) == 7
    # imshow draws pixel centers at whole numbers: the outermost lie on 0 and on size - 1.
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
    # What lies outside the image stays in sight, and y still points down.
    bottom, top = figure.axes[0].get_ylim()
    left, right = figure.axes[0].get_xlim()
    assert top < -2.5 < height < bottom
    assert left < 0 < width < right


def test_each_image_stands_above_its_rectified_one_with_title_and_theta():
    count = 11  # two double rows, of eight and of three
    images = random_images(count, 3, 7, 7)
    theta = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    titles = [f"image {i}" for i in range(count)]
    axes = np.array(draw_grids(images, theta, titles).axes).reshape(4, 8)
    for i in range(count):
        above, below = axes[i // 8 * 2, i % 8], axes[i // 8 * 2 + 1, i % 8]
        np.testing.assert_array_equal(shown(above), rounded(images[i]))
        np.testing.assert_array_equal(shown(below), rounded(255 - images[i]))
        assert above.get_title() == titles[i]
        numbers = [[float(number) for number in row.split()] for row in below.get_title().splitlines()]
        np.testing.assert_allclose(numbers, theta[i].view(2, 3).numpy(), atol=0.00501)
    assert not any(ax.images or ax.lines or ax.axison for ax in axes[2:, 3:].flat)


def test_control_points_are_dots_where_the_spline_looks_and_no_numbers():
    height, width = 10, 20
    spline = ThinPlateSpline(control_points=3)
    theta = torch.tensor([spline.identity]) + 0.1 * torch.randn(1, 18, generator=torch.Generator().manual_seed(0))
    images = random_images(1, 1, height, width)
    figure = sampling_grids(images, images, spline(theta, height, width), spline.readable(theta), ["title"])
    figure.savefig(io.BytesIO())
    above, below = figure.axes
    (dots,) = above.collections
    expected = (theta.view(9, 2).numpy() + 1) * (width, height) / 2 - 0.5
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), expected, atol=1e-4)
    assert below.get_title() == ""


def test_heads_side_by_side_have_a_grid_of_a_color_and_numbers_each():
    height, width = 8, 8
    parallel = Parallel(Projective(), 2)
    theta = torch.tensor([parallel.identity] * 2) + 0.05
    theta[:, 10] += 0.5  # the second head looks half an image to the right
    images, rectified = random_images(2, 3, height, width), random_images(2, 3, 2 * 6, 5)
    grids = parallel(theta, 6, 5)
    figure = sampling_grids(images, rectified, grids, parallel.readable(theta), ["one", "two"])
    figure.savefig(io.BytesIO())
    above, below = figure.axes[0], figure.axes[2]
    np.testing.assert_array_equal(shown(below), rounded(rectified[0]))  # one above the other
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


def test_distributions_of_heads_have_the_units_of_their_quantities():
    described = Parallel(Affine(), 2).describe(torch.tensor([Affine.identity * 2] * 5), 4, 4)
    figure = theta_distributions(described)
    labels = {axes.get_title().split(":")[0]: axes.get_xlabel() for axes in figure.axes}
    assert labels["rotation_1"] == labels["rotation_2"] == "degrees"
    assert labels["shift_x_2"] == "half images" and labels["scale_1"] == ""


def test_distributions_count_every_image_and_say_mean_and_spread():
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor(Affine.identity) + 0.2 * torch.randn(300, 6, generator=generator)
    described = Affine().describe(theta, 8, 8) | {"seventh": torch.linspace(0, 1, 300)}
    figure = theta_distributions(described)
    figure.savefig(io.BytesIO())
    for axes, (name, values) in zip(figure.axes, described.items(), strict=False):
        counts, edges = np.histogram(values.numpy(), bins=len(axes.patches))
        assert [bar.get_height() for bar in axes.patches] == counts.tolist()  # pyright: ignore
        assert axes.patches[0].get_x() == pytest.approx(edges[0], abs=1e-5)  # pyright: ignore
        assert sum(counts) == 300
        mean, std = np.mean(values.numpy()), np.std(values.numpy(), ddof=1)
        assert axes.get_title() == f"{name}: mean {mean:.3g}, std {std:.3g}"
    assert [axes.get_xlabel() for axes in figure.axes[1:4]] == ["degrees", "half images", "half images"]
    assert [axes.axison for axes in figure.axes] == [True] * 7 + [False] * 2  # nine places for seven quantities


def test_learning_curves_draw_a_line_for_each_seed_and_a_color_for_each_variant():
    histories = {
        "plain": [[{"epoch": epoch, "loss": seed + 1 / epoch} for epoch in (1, 2, 3)] for seed in range(2)],
        "stn": [[{"epoch": epoch, "loss": 5.0 - epoch} for epoch in (1, 2)]],  # a shorter run
    }
    figure = learning_curves(histories, "loss", "cross-entropy")
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    drawn = [(line.get_color(), np.asarray(line.get_xydata()).tolist()) for line in axes.lines]
    runs = [(variant, run) for variant, runs in histories.items() for run in runs]
    assert [points for _, points in drawn] == [[[e["epoch"], e["loss"]] for e in run] for _, run in runs]
    colors = {variant: {color for (color, _), (name, _) in zip(drawn, runs, strict=True) if name == variant}
              for variant in histories}  # fmt: skip
    assert [len(of_variant) for of_variant in colors.values()] == [1, 1]
    assert colors["plain"] != colors["stn"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "stn"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "cross-entropy")


def test_robustness_has_a_panel_for_each_motion_with_interval_where_there_is_one():
    amounts = np.array([-90.0, 0.0, 90.0])
    nothing = np.full(3, np.nan)
    sure = np.stack([amounts, [0.3, 0.9, 0.4], nothing, nothing])
    spread = np.stack([amounts, [0.5, 0.9, 0.6], [0.4, 0.8, 0.5], [0.6, 1.0, 0.7]])
    figure = robustness_curves(
        {"rotation": {"plain": sure, "stn": spread}, "scale": {"plain": sure}}, {"rotation": 0.0, "scale": 1.0}
    )
    figure.savefig(io.BytesIO())
    rotation, scale = figure.axes
    *curves, still = rotation.lines
    assert [np.asarray(line.get_xydata())[:, 1].tolist() for line in curves] == [[0.3, 0.9, 0.4], [0.5, 0.9, 0.6]]
    assert (rotation.get_xlabel(), scale.get_xlabel()) == ("rotation", "scale")
    assert [np.asarray(line.get_xdata()).tolist() for line in (still, scale.lines[-1])] == [[0.0, 0.0], [1.0, 1.0]]
    heights = [np.asarray(path.vertices)[:, 1] for band in rotation.collections for path in band.get_paths()]
    assert [(of.min(), of.max()) for of in heights if len(of)] == [(0.4, 1.0)]


def test_a_reliability_diagram_shows_each_bin_by_its_size():
    bins = {"plain": np.array([[0.4, 0.5, 10], [0.9, 0.7, 30]]), "stn": np.array([[0.8, 0.8, 5]])}
    figure = reliability_diagrams(bins)
    figure.savefig(io.BytesIO())
    for axes, (variant, of_variant) in zip(figure.axes, bins.items(), strict=True):
        (dots,) = (drawn for drawn in axes.collections if isinstance(drawn, PathCollection))
        np.testing.assert_allclose(np.asarray(dots.get_offsets()), of_variant[:, :2])
        assert np.argsort(dots.get_sizes()).tolist() == np.argsort(of_variant[:, 2]).tolist()
        assert axes.get_title() == variant
