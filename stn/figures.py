"""Pictures of θ: what a spatial transformer does to images. Every function returns a matplotlib figure."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

ACCENT = "#d1495b"
CELL = 1.25  # inches


def rectified_batch(images: Tensor, rectified: Tensor) -> Figure:
    """A batch beside the same batch after the transformer, as PyTorch's tutorial shows it.

    Both are pixel values in [0, 255], (B, C, H, W).
    """
    columns = math.ceil(math.sqrt(len(images)))
    figure = Figure(figsize=(10, 5.3), layout="constrained")
    for axes, batch, title in zip(figure.subplots(1, 2), (images, rectified), ("input", "rectified"), strict=True):
        _show(axes, _mosaic(batch, columns))
        axes.set_title(title)
    return figure


def sampling_grids(images: Tensor, rectified: Tensor, grids: Tensor, matrices: Tensor, titles: list[str]) -> Figure:
    """For each image the input with the sampling grid on it, the rectified image below, and θ as numbers.

    Args:
        images, rectified: pixel values in [0, 255], (B, C, H, W).
        grids: sampling grids (B, h, w, 2) in [-1, 1] where they are inside the image.
        matrices: θ as matrices (B, 2, 3).
        titles: one for each image.
    """
    columns = min(8, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(columns * CELL * 1.1, rows * CELL * 3.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows * 2, columns)).reshape(rows * 2, columns)
    for ax in axes.flat:
        ax.axis("off")
    height, width = images.shape[-2:]
    for i, title in enumerate(titles):
        above, below = axes[i // columns * 2, i % columns], axes[i // columns * 2 + 1, i % columns]
        _show(above, _pixels(images[i]))
        # From grid coordinates, where the image spans [-1, 1], to pixel indices with centers on whole numbers.
        x, y = ((grids[i].numpy() + 1) * (width, height) - 1).transpose(2, 0, 1) / 2
        for line in np.linspace(0, x.shape[0] - 1, 7).round().astype(int):
            above.plot(x[line], y[line], color=ACCENT, linewidth=0.7)
        for line in np.linspace(0, x.shape[1] - 1, 7).round().astype(int):
            above.plot(x[:, line], y[:, line], color=ACCENT, linewidth=0.7)
        above.set_xlim(-0.35 * width, 1.35 * width)
        above.set_ylim(1.35 * height, -0.35 * height)
        above.set_title(title, fontsize=7)
        _show(below, _pixels(rectified[i]))
        first, second = ("  ".join(f"{value:+.2f}" for value in row) for row in matrices[i].tolist())
        below.set_title(f"{first}\n{second}", fontsize=6, family="monospace")
    return figure


def theta_distributions(described: dict[str, Tensor]) -> Figure:
    """A histogram of each quantity that a transform family's ``describe`` returns, each (N,)."""
    columns = 3
    rows = math.ceil(len(described) / columns)
    figure = Figure(figsize=(columns * 3.2, rows * 2.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    units = {"rotation": "degrees", "shift_x": "half images", "shift_y": "half images", "outside": "share of the grid"}
    for ax, (name, values) in zip(axes, described.items(), strict=False):
        ax.hist(values.numpy(), bins=40, color=ACCENT)
        ax.set_title(f"{name}: mean {values.mean():.3g}, std {values.std():.3g}", fontsize=9)
        ax.set_xlabel(units.get(name, ""), fontsize=8)
        ax.tick_params(labelsize=7)
    for ax in axes[len(described) :]:
        ax.axis("off")
    return figure


def learning_curves(histories: dict[str, list[list[dict]]], quantity: str, label: str) -> Figure:
    """``quantity`` of each epoch, a line for each training seed, a color for each variant."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for color, (variant, runs) in enumerate(histories.items()):
        for i, history in enumerate(runs):
            axes.plot(
                [entry["epoch"] for entry in history], [entry[quantity] for entry in history],
                color=f"C{color}", linewidth=1.2, label=variant if i == 0 else None,
            )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 255] → uint8 (H, W, C)."""
    return image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _mosaic(images: Tensor, columns: int) -> np.ndarray:
    """A batch as one picture, (rows · (H + 2), columns · (W + 2), C), white where no image is."""
    rows = math.ceil(len(images) / columns)
    channels, height, width = images.shape[1:]
    mosaic = np.full((rows * (height + 2), columns * (width + 2), channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        mosaic[top : top + height, left : left + width] = _pixels(image)
    return mosaic


def _show(axes: Axes, pixels: np.ndarray) -> None:
    axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
