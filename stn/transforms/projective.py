"""Projective transforms: homographies."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from stn.transforms.base import Transform
from stn.transforms.coordinates import apply_matrices, homogeneous, map_pixel_centers


class Projective(Transform):
    """The projective family, Jaderberg et al. (2015), section 3.2: eight parameters.

    θ (B, 8) is the homography (B, 3, 3), row by row, without its last entry, which is 1. The homography maps a target
    point (x, y, 1) to (u, v, w); the source point is (u, v) / w. Where w is below :data:`HORIZON`, 1 / w is replaced by
    its tangent at the horizon. Points that a homography maps behind the viewer then lie far away in front of the
    viewer, and all gradients stay finite.
    """

    HORIZON = 0.1
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        """Return θ (B, 8) as matrices (B, 3, 3)."""
        return torch.cat((theta, torch.ones_like(theta[:, :1])), 1).view(-1, 3, 3)

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        ones = homogeneous(points)
        return self._divide(theta, lambda matrices: apply_matrices(ones, matrices))

    def grid(self, theta: Tensor, *size: int) -> Tensor:
        return self._divide(theta, lambda matrices: map_pixel_centers(matrices, size)).unflatten(1, size)

    def _divide(self, theta: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        """Return (u, v) / w of points to which ``apply`` applies matrices (B, 2, 3)."""
        # w is computed twice for each point, for u and for v: broadcasting over two neighbors in memory is not
        # vectorized.
        uv_B23, w_B13 = self.matrix(theta).split((2, 1), 1)
        return apply(uv_B23) * _Reciprocal.apply(apply(w_B13.expand_as(uv_B23)), self.HORIZON)

    def readable(self, theta: Tensor) -> Tensor:
        return self.matrix(theta)


class _Reciprocal(torch.autograd.Function):
    """1 / w elementwise; below a horizon h its tangent at h, (2 · h - w) / h².

    With autograd alone, this and the product before it took 1.5 times as long: every operation passes over the whole
    tensor, and operations that select between two values are the slowest.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, w: Tensor, horizon: float) -> Tensor:
        nearest = w.clamp(min=horizon)
        beyond = nearest - w
        inverse = nearest.reciprocal_().add_(beyond, alpha=horizon**-2)
        ctx.save_for_backward(inverse)
        ctx.horizon = horizon  # pyright: ignore[reportAttributeAccessIssue]
        return inverse

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (inverse,) = ctx.saved_tensors
        return inverse.clamp(max=1 / ctx.horizon).square_().mul_(gradient).neg_(), None
