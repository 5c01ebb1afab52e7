"""Coordinates of sampling grids: the convention, pixel centers, and matrices applied to points.

The library uses the coordinates of ``torch.nn.functional.grid_sample`` with ``align_corners=False`` everywhere:
(-1, -1) is the outer corner of the upper left pixel and (1, 1) is the outer corner of the lower right pixel. A θ
therefore means the same at every resolution. x points right, y points down, and in volumes z points to the next slice.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

ALIGN_CORNERS = False
PADDING_MODES = ("zeros", "border", "reflection")


def pixel_centers(size: Sequence[int], like: Tensor) -> Tensor:
    """Return the centers (N, dims) of all pixels or voxels, x first, in row-major order.

    ``size`` is the height and width of an image, or the depth, height and width of a volume. The centers have the dtype
    and the device of ``like``.
    """
    lines = [(2 * torch.arange(count, device=like.device, dtype=like.dtype) + 1) / count - 1 for count in size]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], -1).view(-1, len(size))


def apply_matrices(points: Tensor, matrices: Tensor) -> Tensor:
    """Apply matrices (B, D, K) to points: ``points @ matrices.mT``, of shape (B, N, D).

    Points have shape (B, N, K), or (N, K) if all images share them. Shared points of images take one matrix product for
    the whole batch: the flattened matrices (B, D · K) times the contributions (D · K, N · D) of each point to x and to
    y. Half of the contributions are zeros, but both alternatives are slower. One product per image is slow. Separate
    products for x and for y are slow too, because ``F.grid_sample`` returns gradients with x and y interleaved, which
    must first be de-interleaved. For volumes two thirds of the contributions would be zeros, and a volume has enough
    points for a separate product.
    """
    if points.ndim == 3 or matrices.shape[1] > 2:
        return points @ matrices.mT
    count, dims = len(points), matrices.shape[1]
    parts_DKND = torch.eye(dims, dtype=points.dtype, device=points.device)[:, None, None] * points.mT[..., None]
    return (matrices.flatten(1) @ parts_DKND.reshape(-1, count * dims)).view(-1, count, dims)


def homogeneous(points: Tensor) -> Tensor:
    """Append a coordinate of 1 to points (..., dims): (..., dims + 1)."""
    return torch.cat((points, torch.ones_like(points[..., :1])), -1)


def constant(values: tuple, like: Tensor) -> Tensor:
    """Return numbers, or nested tuples of numbers, as a tensor with the dtype and the device of ``like``, made once.

    Copying numbers from Python to a GPU would make each training step wait, and cannot be captured in a CUDA graph.
    """
    if is_real(like):
        return _constant(values, like.dtype, like.device)
    return torch.tensor(values, dtype=like.dtype, device=like.device)


@cache
def _constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training
        return torch.tensor(values, dtype=dtype, device=device)


def is_real(tensor: Tensor) -> bool:
    """Whether results that have the dtype and device of ``tensor`` may be kept for later calls.

    Those of a program that is being exported may not: they have no values.
    """
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta and not torch.compiler.is_compiling()


def at_least_fp32(theta: Tensor) -> Tensor:
    """Cast θ to fp32, or return it unchanged if it is fp64.

    bf16 has 8 bits of precision, too few to tell the pixels of an image apart.
    """
    return theta if theta.dtype == torch.float64 else theta.float()
