"""Filmstrip and animation: rectified images and sampling grids, epoch by epoch."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.visualization.figures import HEAD_COLORS, grid_lines, to_pixel_indices, to_uint8

FRAME_MS, LAST_FRAME_MS = 200, 3000
COLUMNS = 5  # images per row of a frame
LONGER_SIDE = 96  # pixels, upper bound for an image in a frame; small images are enlarged by an integer factor
MARGIN = 0.25  # around an image, relative to its size, because grids extend beyond it
SUPERSAMPLING = 2  # frames are drawn larger by this factor and then reduced, which smooths the lines
GAP = 8 * SUPERSAMPLING
CAPTION_HEIGHT = 20 * SUPERSAMPLING


def draw_filmstrip(images: Tensor, rectified: Mapping[int, Tensor], titles: Sequence[str]) -> Figure:
    """Draw one row per image: the input, then the rectified image after each epoch.

    Args:
        images: pixel values in [0, 255], (E, C, H, W).
        rectified: epoch → rectified images (E, C, h, w), pixel values in [0, 255].
        titles: title of each image.
    """
    columns = {"input": images} | {f"epoch {epoch}": batch for epoch, batch in rectified.items()}
    height, width = (max(batch.shape[dim] for batch in columns.values()) for dim in (2, 3))
    gap = max(1, round(height / 14))
    pitch_y, pitch_x = height + gap, width + gap
    strip = np.full((len(images) * pitch_y, len(columns) * pitch_x, images.shape[1]), 255, np.uint8)
    for column, batch in enumerate(columns.values()):
        for row, image in enumerate(batch):
            h, w = image.shape[-2:]
            top, left = row * pitch_y + (height - h) // 2, column * pitch_x + (width - w) // 2
            strip[top : top + h, left : left + w] = to_uint8(image)
    figure = Figure(figsize=(0.8 * len(columns) + 0.4, 0.8 * len(images) * pitch_y / pitch_x), layout="constrained")
    axes = figure.subplots()
    axes.imshow(strip.squeeze(-1) if strip.shape[-1] == 1 else strip, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([i * pitch_x + (width - 1) / 2 for i in range(len(columns))], list(columns), fontsize=8)
    axes.set_yticks([i * pitch_y + (height - 1) / 2 for i in range(len(images))], titles, fontsize=8)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def draw_frame(images: Tensor, rectified: Tensor, grids: Tensor, caption: str) -> Image.Image:
    """Draw one frame of an animation: each input with its sampling grids, and the rectified image below it.

    Args:
        images: pixel values in [0, 255], (E, C, H, W).
        rectified: pixel values in [0, 255], (E, C, heads · h, w).
        grids: sampling grids (E, heads, h, w, 2). Points inside the image are in [-1, 1].
        caption: text above the images.
    """
    layout = _lay_out_cell(images, rectified)
    rows = math.ceil(len(images) / COLUMNS)
    size = (min(COLUMNS, len(images)) * layout.width, CAPTION_HEIGHT + rows * layout.height)
    frame = Image.new("RGB", size, "white")
    for i in range(len(images)):
        cell = _draw_cell(images[i], rectified[i], grids[i], layout)
        frame.paste(cell, (i % COLUMNS * layout.width, CAPTION_HEIGHT + i // COLUMNS * layout.height))
    font = ImageFont.load_default(SUPERSAMPLING * 13)
    middle = (frame.width / 2, CAPTION_HEIGHT / 2)
    ImageDraw.Draw(frame).text(middle, caption, fill="black", font=font, anchor="mm")
    return frame.reduce(SUPERSAMPLING)


def write_animation(frames: Iterable[Image.Image], path: Path) -> None:
    """Write frames of equal size as an animated PNG that loops and pauses on the last frame."""
    first, *others = frames
    durations = [FRAME_MS] * len(others) + [LAST_FRAME_MS]
    first.save(path, format="PNG", save_all=True, append_images=others, duration=durations, loop=0)


class _CellLayout(NamedTuple):
    """Sizes in supersampled pixels. ``above`` and ``below`` are height and width of input and rectified image."""

    above: tuple[int, int]
    below: tuple[int, int]
    margin_y: int
    margin_x: int
    height: int
    width: int


def _lay_out_cell(images: Tensor, rectified: Tensor) -> _CellLayout:
    above, below = _scaled_size(*images.shape[-2:]), _scaled_size(*rectified.shape[-2:])
    margin_y, margin_x = (round(MARGIN * side) for side in above)
    height = above[0] + 2 * margin_y + below[0] + GAP
    width = max(above[1] + 2 * margin_x, below[1] + GAP)
    return _CellLayout(above, below, margin_y, margin_x, height, width)


def _scaled_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of an image within a frame, in supersampled pixels."""
    factor = LONGER_SIDE / max(height, width)
    factor = math.floor(factor) if factor > 1 else factor
    return max(1, round(height * factor)) * SUPERSAMPLING, max(1, round(width * factor)) * SUPERSAMPLING


def _draw_cell(image: Tensor, rectified: Tensor, grids: Tensor, layout: _CellLayout) -> Image.Image:
    """Draw one image with its sampling grids (heads, h, w, 2), and the rectified image below it."""
    cell = Image.new("RGB", (layout.width, layout.height), "white")
    left, top_of_rectified = (layout.width - layout.above[1]) // 2, layout.above[0] + 2 * layout.margin_y
    cell.paste(_resize(image, layout.above), (left, layout.margin_y))
    pen = ImageDraw.Draw(cell)
    height, width = image.shape[-2:]
    for head, grid in enumerate(grids):
        points = to_pixel_indices(grid, height, width) + 0.5  # distance from the image's corner, in pixels
        x = left + points[0] * layout.above[1] / width
        y = layout.margin_y + points[1] * layout.above[0] / height
        for line in _lines_of_grid(x, y):
            pen.line(line, fill=HEAD_COLORS[head % len(HEAD_COLORS)], width=SUPERSAMPLING)
    # Erase grid lines that extend into the area of the rectified image.
    pen.rectangle((0, top_of_rectified, layout.width, layout.height), fill="white")
    cell.paste(_resize(rectified, layout.below), ((layout.width - layout.below[1]) // 2, top_of_rectified))
    return cell


def _resize(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """Resize pixel values (C, H, W) to ``size`` (height, width)."""
    pixels = to_uint8(image)
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")
    method = Image.Resampling.NEAREST if size[0] >= picture.height else Image.Resampling.BOX
    return picture.resize((size[1], size[0]), method)


def _lines_of_grid(x: np.ndarray, y: np.ndarray) -> Iterator[list[tuple[float, float]]]:
    """Yield the drawn rows and columns of a grid, x and y (h, w) each, as lists of points."""
    for rows in (np.stack((x, y), -1), np.stack((x.T, y.T), -1)):
        for line in grid_lines(len(rows)):
            yield [tuple(point) for point in rows[line].tolist()]
