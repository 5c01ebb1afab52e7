"""Thin plate splines: smooth warps given by control points."""

import numpy as np
import torch
from torch import Tensor

from stn.transforms.base import Transform
from stn.transforms.coordinates import (
    apply_contributions,
    apply_matrices,
    contributions,
    is_real,
    pixel_centers,
)


class ThinPlateSpline(Transform):
    """Thin plate splines, the most flexible family of Jaderberg et al. (2015), section 3.2: 2 · k² parameters.

    The control points form a regular k×k grid over the output; the outermost lie on the image border. θ (B, 2 · k²)
    holds the position (x, y) of each control point in the input, row by row. All other points are displaced by the
    smoothest surface through the displacements of the control points, which is a fixed weighted sum of them
    (Bookstein, "Principal Warps", 1989). The linear system is solved once, in the constructor; a forward pass takes one
    matrix product.

    Args:
        control_points: number k of control points per side, at least 2.

    Raises:
        ValueError: ``control_points`` is less than 2.
    """

    def __init__(self, bound: float | None = None, control_points: int = 4):
        if control_points < 2:
            raise ValueError(f"control_points: {control_points} given; must be at least 2 per side")
        line = np.linspace(-1, 1, control_points)
        centers_N2 = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
        super().__init__(bound, centers_N2.ravel().tolist())
        square_NN = np.square(centers_N2[:, None] - centers_N2).sum(-1)
        affine_N3 = np.column_stack((np.ones(len(centers_N2)), centers_N2))
        # The bending function r² log r² at the control points, bordered by the affine part, which does not bend.
        bending_NN = square_NN * np.log(np.where(square_NN > 0, square_NN, 1))
        system = np.block([[bending_NN, affine_N3], [affine_N3.T, np.zeros((3, 3))]])
        solution = np.linalg.inv(system)[:, : len(centers_N2)]
        self._kept: dict[tuple, Tensor] = {}
        self.centers_N2: Tensor
        self.solution_MN: Tensor
        self.register_buffer("centers_N2", torch.tensor(centers_N2, dtype=torch.float32), persistent=False)
        self.register_buffer("solution_MN", torch.tensor(solution, dtype=torch.float32), persistent=False)

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        # Interpolates displacements, not positions: at the identity they are exactly zero.
        return points + apply_matrices(self._weights(points, theta.dtype), self._displacements(theta).mT)

    def grid(self, theta: Tensor, *size: int) -> Tensor:
        points = pixel_centers(size, theta)
        displaced = apply_contributions(self._contributions(points, size), self._displacements(theta).mT)
        return (points + displaced).unflatten(1, size)

    def _displacements(self, theta: Tensor) -> Tensor:
        """Return the displacements (B, k², 2) of the control points."""
        return self.readable(theta) - self.centers_N2.to(theta.dtype)

    def _contributions(self, points: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return the contributions of the control points to all pixel centers, computed once for each size."""
        if not is_real(points):
            return contributions(self._weights(points, points.dtype), 2)
        key = size, points.dtype, points.device
        if key not in self._kept:
            with torch.inference_mode(False), torch.no_grad():
                self._kept[key] = contributions(self._weights(points, points.dtype), 2)
        return self._kept[key]

    def _weights(self, points: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the weight of each control point at points (..., N, 2): (..., N, k²)."""
        centers_N2, solution_MN = self.centers_N2.to(dtype), self.solution_MN.to(dtype)
        square = (points[..., None, :] - centers_N2).square().sum(-1)
        # Clamped because the gradient of the logarithm with respect to a point is infinite at a control point.
        bending = square * square.clamp(min=1e-12).log()
        return torch.cat((bending, torch.ones_like(points[..., :1]), points), -1) @ solution_MN

    def readable(self, theta: Tensor) -> Tensor:
        """Return θ (B, 2 · k²) as positions of the control points in the input, (B, k², 2)."""
        return theta.view(-1, len(self.centers_N2), 2)
