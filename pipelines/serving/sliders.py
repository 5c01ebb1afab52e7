"""The sliders of the page: motions of an image, and what θ does about each of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from stn.alignment import fit_poses, map_by_heads, relative_to
from stn.distortions import distort, sampling_matrix
from stn.transforms import Affine, Transform

STEPS = 24  # of a path from one end of a slider to the other
LINES, POINTS = 9, 17  # of a drawn grid: lines in each direction, and points of a line that may be curved
FAR = 4.0  # coordinate where drawn lines end, in units of half the image


class Motion(BaseModel):
    """Positions of all sliders. The default moves nothing.

    The image is rotated (degrees, clockwise), scaled, shifted (share of the size) and tilted about its horizontal axis;
    then Gaussian noise is added, with this standard deviation as a share of white.
    """

    rotation: float = Field(default=0.0, ge=-180, le=180, allow_inf_nan=False)
    scale: float = Field(default=1.0, ge=0.3, le=2, allow_inf_nan=False)
    shift_x: float = Field(default=0.0, ge=-0.5, le=0.5, allow_inf_nan=False)
    shift_y: float = Field(default=0.0, ge=-0.5, le=0.5, allow_inf_nan=False)
    perspective: float = Field(default=0.0, ge=-0.7, le=0.7, allow_inf_nan=False)
    noise: float = Field(default=0.0, ge=0, le=0.5, allow_inf_nan=False)


class Slider(NamedTuple):
    """A slider of the page.

    Args:
        name: field of :class:`Motion`.
        title: title on the page.
        low, high: ends of the slider.
        still: the position that moves nothing.
        step: distance of two positions.
        unit: unit of the position.
    """

    name: str
    title: str
    low: float
    high: float
    still: float
    step: float
    unit: str

    def positions(self) -> list[float]:
        """Return the positions of a path: both ends, positions between them, and the one that moves nothing."""
        return sorted({self.still, *(float(x) for x in np.linspace(self.low, self.high, STEPS + 1).round(6))})


def _slider(name: str, title: str, step: float, unit: str) -> Slider:
    field = Motion.model_fields[name]
    low, high = (next(getattr(m, end) for m in field.metadata if hasattr(m, end)) for end in ("ge", "le"))
    return Slider(name, title, low, high, field.default, step, unit)


SLIDERS = {
    slider.name: slider
    for slider in (
        _slider("rotation", "rotation", 1, "°"),
        _slider("scale", "scale", 0.01, "×"),
        _slider("shift_x", "shift to the right", 0.01, "of the width"),
        _slider("shift_y", "shift down", 0.01, "of the height"),
        _slider("perspective", "perspective", 0.01, ""),
        _slider("noise", "noise", 0.01, "of white"),
    )
}


class Path(NamedTuple):
    """What θ undoes over the positions of a slider.

    Args:
        applied: positions of the slider.
        undone: what θ undoes of each, relative to the position that moves nothing; for ``noise``, how far θ moves
            points of the image on average, as a share of its size.
        ideal: what a transformer undoes that undoes everything: ``applied``, and 0 for noise.
    """

    applied: list[float]
    undone: list[float]
    ideal: list[float]


def move(pixels: np.ndarray, motions: Sequence[Motion]) -> np.ndarray:
    """Move an image, uint8 (C, H, W), by each motion: uint8 (N, C, H, W). Uncovered pixels are black."""
    channels, height, width = pixels.shape

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(motion, name) for motion in motions])

    count, tilt = len(motions), column("perspective")
    matrices = sampling_matrix(
        torch.deg2rad(column("rotation")), column("scale"), 2 * column("shift_x"), 2 * column("shift_y"),
        aspect=width / height,
    )  # fmt: skip
    # The tilt maps (x, y) to (x, y) / (1 + tilt · y). There is no horizon within the image.
    tilts = torch.eye(3).repeat(count, 1, 1)
    tilts[:, 2, 1] = tilt
    last_row = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(count, 1, 3)
    images = torch.from_numpy(pixels)[None].float().expand(count, -1, -1, -1)
    moved = distort(images, torch.cat((matrices, last_row), 1) @ tilts, "zeros")
    # The same noise for all motions, so that a picture does not flicker while a slider moves.
    noise = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    moved = moved + 255 * column("noise").view(-1, 1, 1, 1) * noise
    return moved.round().clamp(0, 255).byte().numpy()


def motions_along(motion: Motion, slider: Slider) -> list[Motion]:
    """Return the motions of a path: one slider moves and the others stay."""
    return [motion.model_copy(update={slider.name: position}) for position in slider.positions()]


def measure_path(slider: Slider, transform: Transform, theta: Tensor, size: tuple[int, int]) -> Path | None:
    """Measure what θ (N, P) undoes at the positions of a slider.

    Several heads are averaged. For a family whose perspective is not defined the result is None.
    """
    applied = slider.positions()
    still, heads = applied.index(slider.still), transform.heads
    if slider.name == "noise":
        shares = _distances(transform, theta, still) / 2
        return Path(applied, shares.tolist(), [0.0] * len(applied))
    if slider.name == "perspective":
        tilts = _tilts(transform, theta)
        return None if tilts is None else Path(applied, (tilts[still] - tilts).tolist(), applied)
    poses = fit_poses(transform, theta, size, size)
    values = {
        "rotation": poses.rotation, "scale": poses.log_scale, "shift_x": poses.shift_x / 2, "shift_y": poses.shift_y / 2
    }[slider.name]  # fmt: skip
    undone = relative_to(values.view(-1, heads), still, heads, is_angle=slider.name == "rotation")[:, 0]
    undone = torch.rad2deg(undone) if slider.name == "rotation" else undone
    return Path(applied, (undone.exp() if slider.name == "scale" else undone).tolist(), applied)


def _distances(transform: Transform, theta: Tensor, still: int) -> Tensor:
    """Return how far each θ moves the points of a grid from where one of them, ``still``, maps them: means (N,)."""
    line = torch.linspace(-1, 1, LINES)
    points = torch.cartesian_prod(line, line)
    mapped = map_by_heads(transform, theta, points).unflatten(0, (-1, transform.heads))
    return (mapped - mapped[still]).norm(dim=-1).mean((1, 2))


def _tilts(transform: Transform, theta: Tensor) -> Tensor | None:
    """Return the perspective of each θ about the horizontal axis, (N,); None if the family does not define it."""
    readable = transform.readable(theta)
    if readable.shape[-2:] == (2, 3):
        return torch.zeros(len(theta))
    if readable.shape[-2:] != (3, 3):
        return None
    tilts = readable[..., 2, 1] / readable[..., 2, 2]
    return tilts if tilts.ndim == 1 else tilts.mean(1)


def grid_lines(transform: Transform, theta: Tensor) -> list[list[list[float]]]:
    """Return lines of the sampling grid of θ (1, P), as points in coordinates from -1 to 1; of all heads."""
    count = 2 if isinstance(transform, Affine) else POINTS
    fixed, along = torch.linspace(-1, 1, LINES), torch.linspace(-1, 1, count)
    x, y = torch.meshgrid(fixed, along, indexing="ij")
    lines = torch.cat((torch.stack((x, y), -1), torch.stack((y, x), -1)))
    mapped = map_by_heads(transform, theta, lines.flatten(0, 1)).clamp(-FAR, FAR)
    return (mapped.reshape(-1, count, 2) * 1e4).round().div(1e4).tolist()
