"""Alignment: how much of a known motion of the images a spatial transformer undoes.

A moved image shows at the point p what the original shows at T(p), where T is the sampling map of the motion. A spatial
transformer with the sampling map A shows the original at T(A(p)). It undoes the motion if T∘A is the same for every T
(the covariance constraint of Lenc and Vedaldi, "Learning Covariant Feature Detectors", 2016, section 2). The original
need not be upright: only T∘A of several motions of one image are compared.

Sampling maps are compared at points of the output, so that all families can be measured. Points have the coordinates of
:mod:`stn.transforms.coordinates`; sizes are (height, width).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stn.composition import Parallel
from stn.transforms import Affine, Transform
from stn.transforms.coordinates import homogeneous, pixel_centers

POINTS = 8  # per side of the grid that a pose is fitted to
DIFFERENCE = 1e-4  # half the distance of the points of a numerical derivative
NEWTON_STEPS = 20
FLAT = 1e-12  # a map with a smaller determinant has no inverse
TOLERANCE = 1e-3  # of a solution, in units of half the image
FAR = 100.0  # coordinate of a point that is not found, in units of half the image


class Poses(NamedTuple):
    """Rotation (radians, clockwise as displayed), log-scale and shift (units of half the image), each (B,).

    They are those of the sampling map. A transformer that undoes a rotation by 30° has a sampling map that is rotated
    by 30° too.
    """

    rotation: Tensor
    log_scale: Tensor
    shift_x: Tensor
    shift_y: Tensor


def fit_poses(transform: Transform, theta: Tensor, input_size: Sequence[int], output_size: Sequence[int]) -> Poses:
    """Fit the nearest affine map to the sampling map of θ (B, P), by least squares, and return its pose.

    With several heads the result has one pose for each head of each image, (B · heads,).
    """
    points = pixel_centers((POINTS, POINTS), theta.double())
    mapped = map_by_heads(transform, theta.double(), points)
    matrices = (torch.linalg.pinv(homogeneous(points)) @ mapped).mT
    # In pixels, so that a rotation of an image that is not square stays a rotation.
    linear = matrices[:, :, :2] * (_extent(input_size, theta)[:, None] / _extent(output_size, theta))
    a, b, c, d = (linear[:, i, j] for i in (0, 1) for j in (0, 1))
    determinant = a * d - b * c
    # Of a map that mirrors, the rotation after the reflection of x.
    rotation = torch.where(determinant < 0, torch.atan2(-c - b, d - a), torch.atan2(c - b, a + d))
    log_scale = determinant.abs().clamp(min=1e-12).log() / 2
    return Poses(rotation, log_scale, matrices[:, 0, 2], matrices[:, 1, 2])


def slopes(applied: Tensor, undone: Tensor) -> Tensor:
    """Regress what was undone, (K, B), on the K amounts that were applied, (K,), for each image: slopes (B,).

    A slope is 0 for a transformer that does nothing, and 1 for one that undoes the motion. Each image has its own
    intercept, so that its own pose does not matter.
    """
    centered = (applied - applied.mean()).to(undone)
    return (centered[:, None] * (undone - undone.mean(0))).sum(0) / centered.square().sum()


def relative_to(values: Tensor, still: int, heads: int, *, is_angle: bool) -> Tensor:
    """Return what a transformer undoes of each amount of a motion, (A, B), as the mean over its heads.

    Args:
        values: one quantity of the poses at each amount, (A, B · heads).
        still: index of the amount that moves nothing; the values there become 0.
        heads: number of heads.
        is_angle: differences are taken modulo a whole turn, in [-π, π].
    """
    values = values - values[still]
    if is_angle:
        values = torch.remainder(values + torch.pi, 2 * torch.pi) - torch.pi
    return values.unflatten(1, (-1, heads)).mean(2)


def corner_errors(
    transform: Transform,
    thetas: tuple[Tensor, Tensor],
    motions: tuple[Tensor, Tensor],
    size: Sequence[int],
) -> Tensor:
    """Measure how far the rectified images of two views of each image are apart, in pixels, (B,).

    The error is the mean distance between the four corners c of the output and the points (T₂∘A₂)⁻¹∘T₁∘A₁(c). It is 0
    if both motions are undone. It does not get smaller if the transformer zooms in, and a transformer that shows a
    single point has a very large error. With several heads it is the mean over the heads.

    Args:
        thetas: θ (B, P) of both views.
        motions: affine sampling maps (B, 2, 3) of both views.
        size: (height, width) of the image whose pixels are the unit of the error.
    """
    first, second = (theta.double() for theta in thetas)
    (matrix_1, matrix_2), heads = (motion.double() for motion in motions), transform.heads
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    corners = corners.to(first.device)
    seen = map_by_heads(transform, first, corners)
    original = Affine().map(matrix_1.repeat_interleave(heads, 0).flatten(1), seen)
    last_row = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64, device=first.device).expand(len(matrix_2), 1, 3)
    inverse = torch.linalg.inv(torch.cat((matrix_2, last_row), 1))[:, :2]
    wanted = Affine().map(inverse.repeat_interleave(heads, 0).flatten(1), original)
    found = _solve(transform, second, wanted, corners.expand_as(wanted))
    distances = ((found - corners) * _extent(size, first) / 2).norm(dim=-1)
    return distances.mean(1).unflatten(0, (-1, heads)).mean(1)


def _solve(transform: Transform, theta: Tensor, targets: Tensor, start: Tensor) -> Tensor:
    """Find the points (B, N, 2) that θ maps to ``targets`` by Newton's method; :data:`FAR` where there are none.

    For affine maps one step is exact.
    """
    points = start
    steps = DIFFERENCE * torch.eye(2, dtype=start.dtype, device=start.device)
    for _ in range(NEWTON_STEPS):
        x, y = (targets - map_by_heads(transform, theta, points)).unbind(-1)
        (a, c), (b, d) = (
            (
                (map_by_heads(transform, theta, points + step) - map_by_heads(transform, theta, points - step))
                / (2 * DIFFERENCE)
            ).unbind(-1)
            for step in steps
        )
        determinant = a * d - b * c
        safe = torch.where(determinant.abs() < FLAT, FLAT, determinant)
        step = torch.stack((d * x - b * y, a * y - c * x), -1) / safe[..., None]
        points = (points + step).clamp(-FAR, FAR)
    solved = (targets - map_by_heads(transform, theta, points)).norm(dim=-1, keepdim=True) < TOLERANCE
    return torch.where(solved, points, FAR)


def map_by_heads(transform: Transform, theta: Tensor, points: Tensor) -> Tensor:
    """Map points (N, 2) or (B · heads, N, 2) by each head of θ (B, P): (B · heads, N, 2)."""
    if isinstance(transform, Parallel):
        transform, theta = transform.transform, transform.split_heads(theta)
    return transform.map(theta, points)


def _extent(size: Sequence[int], like: Tensor) -> Tensor:
    """Width and height of a size (height, width)."""
    return torch.tensor([size[1], size[0]], dtype=torch.float64, device=like.device)
