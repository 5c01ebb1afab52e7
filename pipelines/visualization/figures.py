"""Figures of images, sampling grids and θ. Each function returns a matplotlib figure."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

HEAD_COLORS = ("#d1495b", "#2e86ab", "#e09f3e", "#3a7d44")  # of parallel transformers, repeated for more of them
GRID_LINES = 7  # drawn lines of a sampling grid, per direction
COLUMNS = 8  # images in a row
CELL = 1.25  # inches
WIDE = 1.5  # width / height from which an image has two cells
TEXT_LINE = 0.1  # inches


def draw_rectified_batch(images: Tensor, rectified: Tensor) -> Figure:
    """Draw a batch before and after the transformer, like PyTorch's spatial-transformer tutorial.

    Args:
        images, rectified: pixel values in [0, 255], (B, C, H, W).
    """
    height, width = images.shape[-2:]
    columns = min(len(images), math.ceil(math.sqrt(len(images) * height / width)))
    mosaics = [_mosaic(batch, columns) for batch in (images, rectified)]
    tallest = max(mosaic.shape[0] / mosaic.shape[1] for mosaic in mosaics)
    figure = Figure(figsize=(10, 4.9 * tallest + 0.4), layout="constrained")
    for axes, mosaic, title in zip(figure.subplots(1, 2), mosaics, ("input", "rectified"), strict=True):
        show(axes, mosaic)
        axes.set_title(title)
    return figure


def draw_sampling_grids(images: Tensor, rectified: Tensor, grids: Tensor, theta: Tensor, titles: list[str]) -> Figure:
    """Draw each image with its sampling grid, the rectified image below it, and θ.

    θ is shown as numbers for matrices and as dots on the input for control points.

    Args:
        images: pixel values in [0, 255], (B, C, H, W).
        rectified: pixel values in [0, 255], (B, C, heads · h, w).
        grids: sampling grids (B, heads · h, w, 2). Points inside the image are in [-1, 1].
        theta: readable form, see :meth:`stn.transforms.Transform.readable`. (B, heads, ...) for parallel transforms.
        titles: title of each image.
    """
    theta_BHRC = theta if theta.ndim == 4 else theta[:, None]
    heads, numbers, coordinates = theta_BHRC.shape[1:]
    has_points = coordinates == 2
    text_lines = 0 if has_points else heads * numbers
    height, width = images.shape[-2:]
    columns, cell_height, cell_width = lay_out_cells(len(images), height, width)
    rows = math.ceil(len(images) / columns)
    row_height = cell_height * (2.1 + heads) + TEXT_LINE * max(0, text_lines - 2)
    figure = Figure(figsize=(columns * cell_width * 1.1, rows * row_height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows * 2, columns)).reshape(rows * 2, columns)
    for ax in axes.flat:
        ax.axis("off")
    for i, title in enumerate(titles):
        above, below = axes[i // columns * 2, i % columns], axes[i // columns * 2 + 1, i % columns]
        show(above, to_uint8(images[i]))
        for head, grid in enumerate(grids[i].chunk(heads)):
            color = HEAD_COLORS[head % len(HEAD_COLORS)]
            _plot_grid(above, to_pixel_indices(grid, height, width), color)
            if has_points:
                points = to_pixel_indices(theta_BHRC[i, head], height, width)
                above.scatter(*points, s=4, color=color, zorder=3)
        above.set_xlim(-0.35 * width, 1.35 * width)
        above.set_ylim(1.35 * height, -0.35 * height)
        above.set_title(title, fontsize=7)
        show(below, to_uint8(rectified[i]))
        if not has_points:
            matrix_rows = theta_BHRC[i].flatten(0, 1).tolist()
            text = "\n".join("  ".join(f"{number:+.2f}" for number in row) for row in matrix_rows)
            below.set_title(text, fontsize=6, family="monospace")
    return figure


def lay_out_cells(count: int, height: int, width: int) -> tuple[int, float, float]:
    """Lay out images of height × width pixels in rows: the number of columns, and height and width of a cell in inches.

    Wide images have wider cells, and fewer of them are in a row.
    """
    cells = 2 if width >= WIDE * height else 1
    return min(count, COLUMNS // cells), max(0.8 * CELL, CELL * cells * height / width), CELL * cells


def grid_lines(count: int) -> np.ndarray:
    """Indices of the ``GRID_LINES`` rows or columns of a grid that are drawn, out of ``count``."""
    return np.linspace(0, count - 1, GRID_LINES).round().astype(int)


def to_pixel_indices(points: Tensor, height: int, width: int) -> np.ndarray:
    """Convert points (..., 2) of an image that spans [-1, 1] to pixel indices x and y, (2, ...).

    Pixel centers have integer indices.
    """
    return np.moveaxis((points.numpy() + 1) * (width, height) - 1, -1, 0) / 2


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert pixel values (C, H, W) in [0, 255] to uint8 (H, W, C)."""
    return image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _plot_grid(axes: Axes, points: np.ndarray, color: str) -> None:
    """Plot some rows and columns of a grid, pixel indices (2, h, w)."""
    x, y = points
    for row in grid_lines(x.shape[0]):
        axes.plot(x[row], y[row], color=color, linewidth=0.7)
    for column in grid_lines(x.shape[1]):
        axes.plot(x[:, column], y[:, column], color=color, linewidth=0.7)


def _mosaic(images: Tensor, columns: int) -> np.ndarray:
    """Arrange a batch as one picture, (rows · (H + 2), columns · (W + 2), C), on white."""
    rows = math.ceil(len(images) / columns)
    channels, height, width = images.shape[1:]
    mosaic = np.full((rows * (height + 2), columns * (width + 2), channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        mosaic[top : top + height, left : left + width] = to_uint8(image)
    return mosaic


def show(axes: Axes, pixels: np.ndarray) -> None:
    """Show pixels uint8 (H, W, C) without axes. Gray images keep their brightness."""
    axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
