"""Distortions of images: what a spatial transformer is there to undo."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stn.clutter import add_clutter, draw_clutter
from stn.transforms import ALIGN_CORNERS, Affine, Projective, ThinPlateSpline

CONTROL_POINTS = 4
# The distortions of MNIST in Jaderberg et al. (2015), section 4.1, lengths as shares of its 28 pixels, so that they are
# the same for images of any size. The number of control points, and where on the canvas a scaled digit may lie, are
# choices of this library, and so is the reading of P: corners "stretched by an amount", one for each. Moved by two
# independent ones, x and y, one image in twenty has the horizon in it, or nearly, and errors are three to four times
# the paper's (LOG.md).
PROTOCOLS: dict[str, dict[str, Any]] = {
    "R": {"rotation": 90},
    "RTS": {"rotation": 45, "scale": (0.7, 1.2), "canvas": 42 / 28},
    "P": {"scale": (0.75, 1.0), "corners": 5 / 28},
    "E": {"scale": (0.75, 1.0), "warp": 1.5 / 28},
    "TC": {"canvas": 60 / 28, "clutter": 6},
}


@dataclass(frozen=True)
class Distortion:
    """Random motions of the content, drawn independently for each image: it is turned, scaled and shifted, then bent.

    Args:
        rotation: at most so many degrees to either side, uniform; positive turns the content clockwise as displayed.
        scale: smallest and largest factor, uniform; below 1 shrinks the content.
        shift: at most this share of the image's width and height to either side, uniform.
        padding_mode: what fills the uncovered area: ``zeros`` (black), ``border`` or ``reflection``.
        corners: each of the image's corners is stretched out from the middle, or pushed in, by one normally distributed
            number of this standard deviation, a share of the image's width in x and the same of its height in y, and
            all between them by the homography through the four.
        warp: each point of a regular 4×4 grid looks at the image this far away, x and y each normally distributed, and
            all between them by the thin plate spline through the sixteen.
        canvas: the image lies in the middle of a black one so many times as large, see :meth:`framed`, and is placed on
            it at random, uniformly, so that the scaled image stays inside; ``shift`` then says nothing.
        clutter: so many small pieces of other images lie on it, see :mod:`stn.clutter`.
    """

    rotation: float = 0.0
    scale: Sequence[float] = (1.0, 1.0)
    shift: float = 0.0
    padding_mode: str = "zeros"
    corners: float = 0.0
    warp: float = 0.0
    canvas: float = 1.0
    clutter: int = 0

    @property
    def is_identity(self) -> bool:
        return self == Distortion(scale=self.scale, padding_mode=self.padding_mode) and tuple(self.scale) == (1, 1)

    def framed(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the canvas of images of height × width pixels."""
        return round(height * self.canvas), round(width * self.canvas)

    def onto_canvas(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in the middle of black ones of the size :meth:`framed`; without a canvas as they are."""
        height, width = images.shape[-2:]
        whole_height, whole_width = self.framed(height, width)
        below, right = whole_height - height, whole_width - width
        return F.pad(images, (right // 2, right - right // 2, below // 2, below - below // 2))

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the images on a canvas of height × width pixels."""
        return round(height / self.canvas), round(width / self.canvas)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """What :func:`distort` takes, for ``count`` images of height × width pixels, the canvas's where there is one.

        fp32, on the CPU: sampling matrices (count, 2, 3); with ``corners`` homographies (count, 3, 3); with ``warp``
        the control points' places (count, 16, 2).
        """
        uniform = torch.rand(4, count, generator=generator)
        angle = (2 * uniform[0] - 1) * math.radians(self.rotation)
        scale = self.scale[0] + uniform[1] * (self.scale[1] - self.scale[0])
        shift_x = (2 * uniform[2] - 1) * self.shift * 2  # the image is 2 units wide
        shift_y = (2 * uniform[3] - 1) * self.shift * 2
        if self.canvas > 1:
            shift_x, shift_y = self._place(uniform[2], scale, width), self._place(uniform[3], scale, height)
        matrices = sampling_matrix(angle, scale, shift_x, shift_y, aspect=width / height)
        if self.corners > 0:
            moved = _CORNERS * (1 + 2 * self.corners * torch.randn(count, 4, 1, generator=generator))
            return _in_homogeneous(matrices) @ _unmoved_corners(moved)
        if self.warp > 0:
            points = _spline(torch.device("cpu")).centers_N2
            points = points + 2 * self.warp * torch.randn(count, len(points), 2, generator=generator)
            return Affine().map(matrices.flatten(1), points)
        return matrices

    def _place(self, uniform: Tensor, scale: Tensor, pixels: int) -> Tensor:
        """Shifts in units of half the canvas, ``pixels`` wide, for numbers (B,) uniform in [0, 1)."""
        room = (1 - scale / self.canvas).clamp(min=0)
        if self.rotation == 0 and tuple(self.scale) == (1, 1):
            # By whole pixels, so that the image is copied and not blurred.
            most = (room * pixels / 2 + 1e-3).floor()
            return ((2 * most + 1) * uniform - most).floor() * (2 / pixels)
        return (2 * uniform - 1) * room


def make_distortion(protocol: str = "none", padding_mode: str = "zeros", **own) -> Distortion:
    """One of :data:`PROTOCOLS` by its name, or with ``none`` that of one's ``own`` settings, which otherwise count for
    nothing."""
    return Distortion(padding_mode=padding_mode, **(own if protocol == "none" else PROTOCOLS[protocol]))


def sampling_matrix(angle: Tensor, scale: Tensor, shift_x: Tensor, shift_y: Tensor, aspect: float = 1.0) -> Tensor:
    """Matrices (B, 2, 3) that rotate the content by ``angle`` (radians, clockwise as displayed), then scale, then
    shift it (units of half the image). Each argument has shape (B,).

    Sampling looks from the output back to the input, so this is the inverse of that motion. ``aspect``, width over
    height, keeps a rotation rigid on images that are not square.
    """
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    a, b, c, d = cos, sin / aspect, -sin * aspect, cos
    return torch.stack([a, b, -(a * shift_x + b * shift_y), c, d, -(c * shift_x + d * shift_y)], dim=-1).view(-1, 2, 3)


def distort(images: Tensor, drawn: Tensor, padding_mode: str) -> Tensor:
    """Floating-point images (B, C, H, W) resampled bilinearly by sampling matrices (B, 2, 3), homographies (B, 3, 3) or
    control points (B, 16, 2)."""
    family = _spline(drawn.device) if drawn.shape[1] > 3 else Projective() if drawn.shape[1] == 3 else Affine()
    grid = family(drawn.flatten(1)[:, : len(family.identity)], *images.shape[-2:])
    return F.grid_sample(images, grid, padding_mode=padding_mode, align_corners=ALIGN_CORNERS)


def distort_once(images: Tensor, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """A whole data set uint8 (N, C, H, W), on the canvas where the distortion has one, distorted once and for all."""
    if distortion.is_identity:
        return images
    count, height, width = len(images), *images.shape[-2:]
    frame = distortion.frame(height, width)
    motions = distortion.draw(count, height, width, generator)
    pieces = draw_clutter(count, distortion.clutter, (height, width), frame, generator)
    done = []
    for pixels, motion, piece in zip(images.split(1000), motions.split(1000), pieces.split(1000), strict=True):
        moved = distort(pixels.float(), motion, distortion.padding_mode)
        done.append(add_clutter(moved, piece, images, frame).round().to(torch.uint8))
    return torch.cat(done)


_CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def _unmoved_corners(moved_B42: Tensor) -> Tensor:
    """Homographies (B, 3, 3) that map the four points to the image's corners.

    The way there is worked out in closed form (Heckbert, "Fundamentals of Texture Mapping and Image Warping", 1989) and
    inverted.
    """
    # Heckbert's is for the unit square; in double precision, since the corners may come to lie nearly on a line.
    p0, p1, p2, p3 = moved_B42.double().unbind(1)
    (dx1, dy1), (dx2, dy2), (dx3, dy3) = ((p1 - p2).unbind(1), (p3 - p2).unbind(1), (p0 - p1 + p2 - p3).unbind(1))
    determinant = dx1 * dy2 - dx2 * dy1
    g, h = (dx3 * dy2 - dx2 * dy3) / determinant, (dx1 * dy3 - dx3 * dy1) / determinant
    across, down = p1 - p0 + g[:, None] * p1, p3 - p0 + h[:, None] * p3
    of_square = torch.stack((_column(across, g), _column(down, h), _column(p0, torch.ones_like(g))), 2)
    to_square = of_square.new_tensor([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    back = torch.linalg.inv(of_square @ to_square)
    return (back / back[:, 2:, 2:]).float()


def _column(xy_B2: Tensor, w: Tensor) -> Tensor:
    return torch.cat((xy_B2, w[:, None]), 1)


def _in_homogeneous(matrices: Tensor) -> Tensor:
    """Matrices (B, 2, 3) with the row (0, 0, 1) below."""
    return torch.cat((matrices, matrices.new_tensor([[[0.0, 0.0, 1.0]]]).expand(len(matrices), 1, 3)), 1)


@cache
def _spline(device: torch.device) -> ThinPlateSpline:
    return ThinPlateSpline(control_points=CONTROL_POINTS).to(device)
