"""Distortions of images: what a spatial transformer is there to undo."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stn.transforms import ALIGN_CORNERS, sampling_grid


@dataclass(frozen=True)
class Distortion:
    """Random rotation, scale and shift, drawn uniformly and independently for each image.

    Args:
        rotation: at most so many degrees to either side; positive turns the content clockwise as displayed.
        scale: smallest and largest factor; below 1 shrinks the content.
        shift: at most this share of the image's width and height to either side.
        padding_mode: what fills the uncovered area: ``zeros`` (black), ``border`` or ``reflection``.
    """

    rotation: float = 0.0
    scale: Sequence[float] = (1.0, 1.0)
    shift: float = 0.0
    padding_mode: str = "zeros"

    @property
    def is_identity(self) -> bool:
        return self.rotation == 0 and tuple(self.scale) == (1, 1) and self.shift == 0

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Sampling matrices (count, 2, 3), fp32, on the CPU, that distort images of height × width pixels."""
        uniform = torch.rand(4, count, generator=generator)
        angle = (2 * uniform[0] - 1) * math.radians(self.rotation)
        scale = self.scale[0] + uniform[1] * (self.scale[1] - self.scale[0])
        shift_x = (2 * uniform[2] - 1) * self.shift * 2  # the image is 2 units wide
        shift_y = (2 * uniform[3] - 1) * self.shift * 2
        return sampling_matrix(angle, scale, shift_x, shift_y, aspect=width / height)


def sampling_matrix(angle: Tensor, scale: Tensor, shift_x: Tensor, shift_y: Tensor, aspect: float = 1.0) -> Tensor:
    """Matrices (B, 2, 3) that rotate the content by ``angle`` (radians, clockwise as displayed), then scale, then
    shift it (units of half the image). Each argument has shape (B,).

    Sampling looks from the output back to the input, so this is the inverse of that motion. ``aspect``, width over
    height, keeps a rotation rigid on images that are not square.
    """
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    a, b, c, d = cos, sin / aspect, -sin * aspect, cos
    return torch.stack([a, b, -(a * shift_x + b * shift_y), c, d, -(c * shift_x + d * shift_y)], dim=-1).view(-1, 2, 3)


def distort(images: Tensor, matrices: Tensor, padding_mode: str) -> Tensor:
    """Floating-point images (B, C, H, W) resampled bilinearly by sampling matrices (B, 2, 3)."""
    grid = sampling_grid(matrices, *images.shape[-2:])
    return F.grid_sample(images, grid, padding_mode=padding_mode, align_corners=ALIGN_CORNERS)
