"""Pictures of θ: what a spatial transformer does to images. Every function returns a matplotlib figure."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

ACCENT = "#d1495b"
HEADS = (ACCENT, "#2e86ab", "#e09f3e", "#3a7d44")  # of transformers side by side, in turn
CELL = 1.25  # inches, as all lengths
LINE = 0.1
GRID_LINES = 7  # of a sampling grid, in each direction


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


def sampling_grids(images: Tensor, rectified: Tensor, grids: Tensor, theta: Tensor, titles: list[str]) -> Figure:
    """For each image the input with the sampling grid on it, the rectified image below, and θ: matrices as numbers,
    control points as dots on the input.

    Args:
        images: pixel values in [0, 255], (B, C, H, W).
        rectified: those of the rectified images, (B, C, heads · h, w).
        grids: sampling grids (B, heads · h, w, 2), in [-1, 1] where they are inside the image.
        theta: in its family's form, :meth:`stn.transforms.Transform.readable`; of heads side by side (B, heads, ...).
        titles: one for each image.
    """
    theta_BHRC = theta if theta.ndim == 4 else theta[:, None]
    heads, numbers, coordinates = theta_BHRC.shape[1:]
    are_points = coordinates == 2
    text_lines = 0 if are_points else heads * numbers
    columns = min(8, len(images))
    rows = math.ceil(len(images) / columns)
    cell = CELL * (2.1 + heads) + LINE * max(0, text_lines - 2)
    figure = Figure(figsize=(columns * CELL * 1.1, rows * cell), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows * 2, columns)).reshape(rows * 2, columns)
    for ax in axes.flat:
        ax.axis("off")
    height, width = images.shape[-2:]
    for i, title in enumerate(titles):
        above, below = axes[i // columns * 2, i % columns], axes[i // columns * 2 + 1, i % columns]
        _show(above, pixels_of(images[i]))
        for head, grid in enumerate(grids[i].chunk(heads)):
            color = HEADS[head % len(HEADS)]
            x, y = on_pixels(grid, height, width)
            for line in np.linspace(0, x.shape[0] - 1, GRID_LINES).round().astype(int):
                above.plot(x[line], y[line], color=color, linewidth=0.7)
            for line in np.linspace(0, x.shape[1] - 1, GRID_LINES).round().astype(int):
                above.plot(x[:, line], y[:, line], color=color, linewidth=0.7)
            if are_points:
                above.scatter(*on_pixels(theta_BHRC[i, head], height, width), s=4, color=color, zorder=3)
        above.set_xlim(-0.35 * width, 1.35 * width)
        above.set_ylim(1.35 * height, -0.35 * height)
        above.set_title(title, fontsize=7)
        _show(below, pixels_of(rectified[i]))
        if not are_points:
            rows_of_numbers = theta_BHRC[i].flatten(0, 1).tolist()
            text = "\n".join("  ".join(f"{value:+.2f}" for value in row) for row in rows_of_numbers)
            below.set_title(text, fontsize=6, family="monospace")
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
        ax.set_xlabel(units.get(name.rstrip("_0123456789"), ""), fontsize=8)  # of several heads each has a number
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


def robustness_curves(curves: dict[str, dict[str, np.ndarray]], reference: dict[str, float]) -> Figure:
    """Accuracy by how far images are moved: a panel for each motion, a line with its interval for each variant.

    Args:
        curves: motion, as the axis calls it → variant → array (4, A): amounts, mean accuracy, lower and upper end of
            its interval, these NaN where there is none.
        reference: the amount of each motion at which nothing moves.
    """
    figure = Figure(figsize=(4.2 * len(curves), 3.4), layout="constrained")
    for axes, (motion, of_variant) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        for color, (variant, (amounts, mean, low, high)) in enumerate(of_variant.items()):
            axes.plot(amounts, mean, color=f"C{color}", linewidth=1.2, label=variant)
            axes.fill_between(amounts, low, high, color=f"C{color}", alpha=0.2, linewidth=0)
        axes.axvline(reference[motion], color="gray", linewidth=0.7, linestyle=":")
        axes.set_xlabel(motion)
        axes.grid(alpha=0.3)
        axes.set_ylim(0, 1)
    figure.axes[0].set_ylabel("test accuracy")
    figure.axes[0].legend()
    return figure


def reliability_diagrams(bins: dict[str, np.ndarray]) -> Figure:
    """Accuracy by confidence, Guo et al. (2017), section 2: a panel for each variant, the closer to the diagonal the
    better.

    Args:
        bins: of each variant (M, 3): mean confidence and accuracy of the images in a bin, and how many there are.
    """
    figure = Figure(figsize=(3.2 * len(bins), 3.4), layout="constrained")
    for ax, (variant, of_variant) in zip(
        np.atleast_1d(figure.subplots(1, len(bins), sharey=True)), bins.items(), strict=True
    ):
        confidence, accuracy, images = of_variant.T
        ax.plot([0, 1], [0, 1], color="gray", linewidth=0.7, linestyle=":")
        ax.vlines(confidence, confidence, accuracy, color=ACCENT, alpha=0.4)  # how far it is off
        ax.scatter(confidence, accuracy, s=4 + 120 * images / images.sum(), color=ACCENT)
        ax.set_title(variant, fontsize=9)
        ax.set_xlabel("confidence")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy")
    return figure


def on_pixels(points: Tensor, height: int, width: int) -> np.ndarray:
    """Points (..., 2) of an image that spans [-1, 1] as pixel indices x and y, (2, ...): centers on whole numbers."""
    return np.moveaxis((points.numpy() + 1) * (width, height) - 1, -1, 0) / 2


def pixels_of(image: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 255] → uint8 (H, W, C)."""
    return image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _mosaic(images: Tensor, columns: int) -> np.ndarray:
    """A batch as one picture, (rows · (H + 2), columns · (W + 2), C), white where no image is."""
    rows = math.ceil(len(images) / columns)
    channels, height, width = images.shape[1:]
    mosaic = np.full((rows * (height + 2), columns * (width + 2), channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        mosaic[top : top + height, left : left + width] = pixels_of(image)
    return mosaic


def _show(axes: Axes, pixels: np.ndarray) -> None:
    axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
