"""Affine transforms of images and volumes, and the subfamilies similarity and attention."""

import math

import torch
from torch import Tensor

from stn.transforms.base import Transform
from stn.transforms.coordinates import apply_matrices, homogeneous


class Affine(Transform):
    """The affine family, Jaderberg et al. (2015), section 3.2, equation 1: six parameters.

    θ (B, 6) is the matrix (B, 2, 3), row by row. The matrix maps a target point (x, y, 1) of the output to the source
    point of the input.
    """

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        """Return θ (B, P) as matrices (B, 2, 3)."""
        return theta.view(-1, 2, 3)

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        return apply_matrices(homogeneous(points), self.matrix(theta))

    def readable(self, theta: Tensor) -> Tensor:
        return self.matrix(theta)

    def local_matrix(self, theta: Tensor) -> Tensor:
        return self.matrix(theta)


class Similarity(Affine):
    """Rotation, uniform scale and shift: θ = (a, b, x, y) is the matrix (a, -b, x; b, a, y) of square images.

    The matrix is linear in its four parameters. An angle as a parameter would wrap around.

    Args:
        aspect: width / height of the images. It keeps rotations rigid on images that are not square: the matrix is
            (a, -b / aspect, x; b · aspect, a, y).
    """

    identity = (1.0, 0.0, 0.0, 0.0)

    def __init__(self, bound: float | None = None, aspect: float = 1.0):
        super().__init__(bound)
        self.aspect = aspect

    def matrix(self, theta: Tensor) -> Tensor:
        a, b, x, y = theta.unbind(1)
        return torch.stack((a, -b / self.aspect, x, b * self.aspect, a, y), 1).view(-1, 2, 3)


class Attention(Affine):
    """Uniform scale and shift, Jaderberg et al. (2015), section 3.2, equation 2: θ = (s, x, y) is (s, 0, x; 0, s, y).

    Args:
        scale: a fixed s, as in the paper's experiment on birds (section 4.3). θ is then (x, y) and starts at the center
            of the image.
    """

    identity = (1.0, 0.0, 0.0)

    def __init__(self, bound: float | None = None, scale: float | None = None):
        super().__init__(bound, None if scale is None else (0.0, 0.0))
        self.scale = scale

    def matrix(self, theta: Tensor) -> Tensor:
        x, y = theta[:, -2], theta[:, -1]
        s = theta[:, 0] if self.scale is None else torch.full_like(x, self.scale)
        zero = torch.zeros_like(s)
        return torch.stack((s, zero, x, zero, s, y), 1).view(-1, 2, 3)


class Affine3d(Affine):
    """The affine family for volumes (B, C, D, H, W), Jaderberg et al. (2015), appendix A: twelve parameters.

    θ (B, 12) is the matrix (B, 3, 4), row by row. The matrix maps a target point (x, y, z, 1).
    """

    identity = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        return theta.view(-1, 3, 4)

    def describe(self, theta: Tensor, *size: int) -> dict[str, Tensor]:
        """Describe θ (B, 12) by the quantities of :meth:`Transform.describe`, with these differences:

        - ``scale``: ∛|det|.
        - ``rotation``: angle of the rotation nearest to the matrix, in degrees, in [0, 180], about any axis.
        - ``shift_z``: an additional quantity. Positive shifts look toward the last slice.
        """
        linear_B33, shift_B3 = self.matrix(theta.float()).split((3, 1), 2)
        determinant = torch.linalg.det(linear_B33)
        left, _, right = torch.linalg.svd(linear_B33)
        # If the matrix mirrors, the nearest rotation flips the singular direction of the smallest singular value.
        cosines = (left * right.mT).sum(1)
        trace = cosines[:, 0] + cosines[:, 1] + determinant.sign() * cosines[:, 2]
        return {
            "scale": determinant.abs() ** (1 / 3),
            "rotation": torch.acos(((trace - 1) / 2).clamp(-1, 1)) * (180 / math.pi),
            "shift_x": shift_B3[:, 0, 0],
            "shift_y": shift_B3[:, 1, 0],
            "shift_z": shift_B3[:, 2, 0],
            "determinant": determinant,
            "outside": self.outside(theta, *size),
        }
