"""Pictures of a training: what a spatial transformer makes of the same few images, epoch by epoch."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.visualization.figures import GRID_LINES, HEADS, on_pixels, pixels_of

SIDE = 96  # pixels, of an image's longer side in a frame, or fewer: small images grow by a whole factor
MARGIN = 0.25  # of an image's size, around it: grids reach beyond
COLUMNS = 5
FRAME_MS, LAST_FRAME_MS = 200, 3000
FINE = 2  # lines are drawn so much larger and then shrunk, which smooths them
GAP = FINE * 8


def filmstrip(images: Tensor, by_epoch: dict[str, Tensor], titles: Sequence[str]) -> Figure:
    """A row for each image: the input, then what was made of it, a column for each of ``by_epoch``.

    Args:
        images: pixel values in [0, 255], (E, C, H, W).
        by_epoch: name of the column → rectified images (E, C, h, w), as pixel values.
        titles: one for each image.
    """
    columns = {"input": images} | by_epoch
    height, width = (max(batch.shape[dim] for batch in columns.values()) for dim in (2, 3))
    gap = max(1, round(height / 14))
    pitch_y, pitch_x = height + gap, width + gap
    strip = np.full((len(images) * pitch_y, len(columns) * pitch_x, images.shape[1]), 255, np.uint8)
    for column, batch in enumerate(columns.values()):
        for row, image in enumerate(batch):
            h, w = image.shape[-2:]
            top, left = row * pitch_y + (height - h) // 2, column * pitch_x + (width - w) // 2
            strip[top : top + h, left : left + w] = pixels_of(image)
    figure = Figure(figsize=(0.8 * len(columns) + 0.4, 0.8 * len(images) * pitch_y / pitch_x), layout="constrained")
    axes = figure.subplots()
    axes.imshow(strip.squeeze(-1) if strip.shape[-1] == 1 else strip, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([i * pitch_x + (width - 1) / 2 for i in range(len(columns))], list(columns), fontsize=8)
    axes.set_yticks([i * pitch_y + (height - 1) / 2 for i in range(len(images))], titles, fontsize=8)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def frame(images: Tensor, rectified: Tensor, grids: Tensor, caption: str) -> Image.Image:
    """One picture of an animation: each input with the sampling grid on it, and below it the rectified image.

    Args:
        images: pixel values in [0, 255], (E, C, H, W).
        rectified: those of the rectified images, (E, C, heads · h, w).
        grids: sampling grids (E, heads, h, w, 2), in [-1, 1] where they are inside the image.
    """
    height, width = images.shape[-2:]
    above, below = _scaled(height, width), _scaled(*rectified.shape[-2:])
    margin_y, margin_x = (round(MARGIN * side) for side in above)
    cell_x = max(above[1] + 2 * margin_x, below[1] + GAP)
    cell_y = above[0] + 2 * margin_y + below[0] + GAP
    top = FINE * 20  # for the caption
    rows = math.ceil(len(images) / COLUMNS)
    picture = Image.new("RGB", (min(COLUMNS, len(images)) * cell_x, top + rows * cell_y), "white")
    for i in range(len(images)):
        cell = Image.new("RGB", (cell_x, cell_y), "white")
        left = (cell_x - above[1]) // 2
        cell.paste(_resized(images[i], above), (left, margin_y))
        pen = ImageDraw.Draw(cell)
        for head, grid in enumerate(grids[i]):
            points = on_pixels(grid, height, width) + 0.5  # of the image, counted from its corner
            x, y = left + points[0] * above[1] / width, margin_y + points[1] * above[0] / height
            for line in _lines(x, y):
                pen.line(line, fill=HEADS[head % len(HEADS)], width=FINE)
        # What lies beneath belongs to the rectified image, however far a grid reaches.
        pen.rectangle((0, above[0] + 2 * margin_y, cell_x, cell_y), fill="white")
        cell.paste(_resized(rectified[i], below), ((cell_x - below[1]) // 2, above[0] + 2 * margin_y))
        picture.paste(cell, (i % COLUMNS * cell_x, top + i // COLUMNS * cell_y))
    font = ImageFont.load_default(FINE * 13)
    ImageDraw.Draw(picture).text((picture.width / 2, top / 2), caption, fill="black", font=font, anchor="mm")
    return picture.reduce(FINE)


def animate(frames: Iterable[Image.Image], path: Path) -> None:
    """Write pictures of one size as an animated PNG that begins again after a rest on the last one."""
    first, *others = frames
    durations = [FRAME_MS] * len(others) + [LAST_FRAME_MS]
    first.save(path, format="PNG", save_all=True, append_images=others, duration=durations, loop=0)


def _scaled(height: int, width: int) -> tuple[int, int]:
    """The size of an image in a frame that is yet to be shrunk by ``FINE``."""
    factor = SIDE / max(height, width)
    factor = math.floor(factor) if factor > 1 else factor
    return max(1, round(height * factor)) * FINE, max(1, round(width * factor)) * FINE


def _resized(image: Tensor, size: tuple[int, int]) -> Image.Image:
    pixels = pixels_of(image)
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")
    method = Image.Resampling.NEAREST if size[0] >= picture.height else Image.Resampling.BOX
    return picture.resize((size[1], size[0]), method)


def _lines(x: np.ndarray, y: np.ndarray) -> Iterator[list[tuple[float, float]]]:
    """Some rows and columns of a grid, x and y (h, w) each, as lists of points."""
    for rows in (np.stack((x, y), -1), np.stack((x.T, y.T), -1)):
        for line in np.linspace(0, len(rows) - 1, GRID_LINES).round().astype(int):
            yield [tuple(point) for point in rows[line].tolist()]
