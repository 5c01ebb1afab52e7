"""θ → sampling grid: the transform families of a spatial transformer.

Coordinates are those of ``torch.nn.functional.grid_sample`` with ``align_corners=False``, fixed throughout this
library: (-1, -1) is the outer corner of the upper left pixel and (1, 1) that of the lower right one, so a θ means
the same at every resolution. x points right, y points down, and in volumes z to the next slice.

Every family maps a point of the output to the point of the input that is sampled there, so θ is the inverse of what
happens to the image's content.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

ALIGN_CORNERS = False
PADDING_MODES = ("zeros", "border", "reflection")


def pixel_centers(size: Sequence[int], like: Tensor) -> Tensor:
    """The centers (N, dims) of all pixels of an image (height, width), row by row, or of all voxels of a volume (depth,
    height, width), slice by slice; x first, in the dtype and on the device of ``like``.
    """
    lines = [(2 * torch.arange(count, device=like.device, dtype=like.dtype) + 1) / count - 1 for count in size]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], -1).view(-1, len(size))


def product(points: Tensor, matrices: Tensor) -> Tensor:
    """``points @ matrices.mT``: points (B, N, K), or (N, K) for all images the same, by matrices (B, D, K): (B, N, D).

    For the same points of images one product for the whole batch, of matrices as rows by every point's part in x and in
    y. Half of these parts are zeros. But a product for each image is slow, and so is one of all images' x and y apart,
    since ``F.grid_sample`` gives back gradients with y beside x, to be torn asunder first. Of volumes two thirds were
    zeros, and one of them has points enough for a product of its own.
    """
    if points.ndim == 3 or matrices.shape[1] > 2:
        return points @ matrices.mT
    count, dims = len(points), matrices.shape[1]
    parts_DKND = torch.eye(dims, dtype=points.dtype, device=points.device)[:, None, None] * points.mT[..., None]
    return (matrices.flatten(1) @ parts_DKND.reshape(-1, count * dims)).view(-1, count, dims)


def homogeneous(points: Tensor) -> Tensor:
    """Points (..., dims) with a 1 behind their coordinates."""
    return torch.cat((points, torch.ones_like(points[..., :1])), -1)


def at_least_fp32(theta: Tensor) -> Tensor:
    """bf16 has 8 bits of precision, less than the width of an image in pixels needs; float64 stays as it is."""
    return theta if theta.dtype == torch.float64 else theta.float()


class Transform(nn.Module):
    """A family of transforms with P numbers in θ; the base of all families and of their compositions.

    Args:
        bound: keeps each number of θ nearer than this to the identity's, see :meth:`bounded`; None: no bound.
        identity: in place of the family's own.

    Raises:
        ValueError: ``bound`` is not positive.
    """

    identity: tuple[float, ...] = ()
    """The P numbers that a localization network starts from."""
    heads = 1
    """How many rectified images come of one; see :class:`stn.composition.Parallel`."""

    def __init__(self, bound: float | None = None, identity: Sequence[float] | None = None):
        super().__init__()
        if bound is not None and bound <= 0:
            raise ValueError(f"bound: {bound} given; must be greater than 0")
        if identity is not None:
            self.identity = tuple(identity)
        self.bound = bound
        self.start_P: Tensor
        if bound is not None:
            self.register_buffer("start_P", torch.tensor(self.identity), persistent=False)

    def bounded(self, theta: Tensor) -> Tensor:
        """What a localization network predicted, (B, P), as θ: identity + bound · tanh((θ - identity) / bound).

        Smooth, and near the identity the same as without a bound, in value and in slope.
        """
        if self.bound is None:
            return theta
        return self.start_P + self.bound * torch.tanh((at_least_fp32(theta) - self.start_P) / self.bound)

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        """Where points of the output, (N, 2) or (B, N, 2), lie in the input, (B, N, 2), by θ (B, P) in fp32 or more."""
        raise NotImplementedError

    def grid(self, theta: Tensor, *size: int) -> Tensor:
        """:meth:`forward` for a θ in fp32 or more."""
        return self.map(theta, pixel_centers(size, theta)).unflatten(1, size)

    def forward(self, theta: Tensor, *size: int) -> Tensor:
        """The sampling grid (B, height, width, 2) of θ (B, P) for a ``size`` of height and width, in at least fp32,
        under autocast too; of volumes (B, depth, height, width, 3)."""
        with torch.autocast(theta.device.type, enabled=False):
            return self.grid(at_least_fp32(theta), *size)

    def readable(self, theta: Tensor) -> Tensor:
        """θ (B, P) in the family's usual form: a matrix (B, 2, 3) or (B, 3, 3), or points of the input (B, N, 2)."""
        raise NotImplementedError

    def local_matrix(self, theta: Tensor) -> Tensor:
        """The affine matrix (B, 2, 3) that has the same value and slope as θ (B, P) at the center of the output.

        The slope is a central difference between two points a 64th of the image apart.
        """
        step = 1 / 64  # of half the image, to either side
        probes = theta.new_tensor([[0.0, 0.0], [-step, 0.0], [step, 0.0], [0.0, -step], [0.0, step]])
        center, left, right, above, below = self.map(theta, probes).unbind(1)
        return torch.stack(((right - left) / (2 * step), (below - above) / (2 * step), center), 2)

    def describe(self, theta: Tensor, *size: int) -> dict[str, Tensor]:
        """What θ (B, P) does, as numbers people can read, each of shape (B,).

        All but ``outside`` are those of the affine matrix at the center of the output, :meth:`local_matrix`, which for
        the affine families is the whole of it:

        - ``scale``: √|det|; below 1 zooms in;
        - ``rotation``: of the grid, in degrees within (-180, 180], clockwise as displayed: the rotation of the
          polar decomposition, which for 2×2 matrices is atan2(c - b, a + d) where the determinant is positive;
        - ``shift_x``, ``shift_y``: in units of half the image; positive looks to the right and downward;
        - ``determinant``: negative where the image is mirrored;
        - ``outside``: share of the grid's points that lie outside the image, within [0, 1].
        """
        matrix_B23 = self.local_matrix(theta.float())
        a, b, c, d = (matrix_B23[:, i, j] for i in (0, 1) for j in (0, 1))
        determinant = a * d - b * c
        return {
            "scale": determinant.abs().sqrt(),
            "rotation": torch.atan2(c - b, a + d) * (180 / math.pi),
            "shift_x": matrix_B23[:, 0, 2],
            "shift_y": matrix_B23[:, 1, 2],
            "determinant": determinant,
            "outside": self.outside(theta, *size),
        }

    def outside(self, theta: Tensor, *size: int) -> Tensor:
        """Share of the points of each grid that lie outside the image, (B,)."""
        return (self(theta, *size).abs() > 1).any(-1).flatten(1).float().mean(1)


class Affine(Transform):
    """The affine family, Jaderberg et al. (2015), section 3.2, equation 1: six free numbers.

    θ, of shape (B, 6), is the matrix (B, 2, 3) row by row. It maps a target point (x, y, 1) of the output to the
    source point of the input that is sampled there.
    """

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        """θ (B, P) as matrices (B, 2, 3)."""
        return theta.view(-1, 2, 3)

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        return product(homogeneous(points), self.matrix(theta))

    def readable(self, theta: Tensor) -> Tensor:
        return self.matrix(theta)

    def local_matrix(self, theta: Tensor) -> Tensor:
        return self.matrix(theta)


class Similarity(Affine):
    """Rotation, one scale and shift: θ = (a, b, x, y) is the matrix (a, -b, x; b, a, y).

    Linear in its four numbers, so that no gradient has an angle to unwind.
    """

    identity = (1.0, 0.0, 0.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        a, b, x, y = theta.unbind(1)
        return torch.stack((a, -b, x, b, a, y), 1).view(-1, 2, 3)


class Attention(Affine):
    """One scale and shift, Jaderberg et al. (2015), section 3.2, equation 2: θ = (s, x, y) is (s, 0, x; 0, s, y).

    Args:
        scale: a fixed s, as for the paper's birds (section 4.3): θ is (x, y) alone and starts with the image's middle.
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
    """The affine family for volumes (B, C, D, H, W), Jaderberg et al. (2015), appendix A: twelve free numbers.

    θ, of shape (B, 12), is the matrix (B, 3, 4) row by row; it maps a target point (x, y, z, 1).
    """

    identity = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        return theta.view(-1, 3, 4)

    def describe(self, theta: Tensor, *size: int) -> dict[str, Tensor]:
        """What θ (B, 12) does, as that of images, with ``shift_z``, positive toward the last slice, and another

        - ``scale``: ∛|det|;
        - ``rotation``: the angle of the rotation that is nearest to the matrix, in degrees within [0, 180], about
          whatever axis.
        """
        linear_B33, shift_B3 = self.matrix(theta.float()).split((3, 1), 2)
        determinant = torch.linalg.det(linear_B33)
        left, _, right = torch.linalg.svd(linear_B33)
        # Nearest rotation: the last axis, that of the least stretch, is turned about where that were a mirror image.
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


class Projective(Transform):
    """The projective family, Jaderberg et al. (2015), section 3.2: eight free numbers.

    θ, of shape (B, 8), is the homography (B, 3, 3) row by row, its last number 1. The target (x, y, 1) is mapped to
    (u, v, w) and looked up at (u, v) / w. Where w is below :data:`HORIZON`, 1 / w is continued by its tangent there:
    what a homography throws behind the viewer lies far away on the near side, and no gradient is infinite.
    """

    HORIZON = 0.1
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        """θ (B, 8) as matrices (B, 3, 3)."""
        return torch.cat((theta, torch.ones_like(theta[:, :1])), 1).view(-1, 3, 3)

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        # Each point's w twice, below u and below v: what is broadcast over two neighbors in memory is not vectorized.
        uv_B23, w_B13 = self.matrix(theta).split((2, 1), 1)
        ones = homogeneous(points)
        return product(ones, uv_B23) * _Inverse.apply(product(ones, w_B13.expand_as(uv_B23)), self.HORIZON)

    def readable(self, theta: Tensor) -> Tensor:
        return self.matrix(theta)


class _Inverse(torch.autograd.Function):
    """1 / w for every number of a tensor; below a horizon h its tangent there, (2 · h - w) / h².

    By autograd alone this took half as long again with the product before it: every operation is a walk through memory,
    and those that choose between two values are the slowest.
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


class ThinPlateSpline(Transform):
    """Thin plate splines, the most flexible family of Jaderberg et al. (2015), section 3.2: 2 · k² free numbers.

    θ, of shape (B, 2 · k²), says where in the input each control point of a regular k×k grid over the output lies, as
    (x, y) row by row; the outermost lie on the image's border. Every other point is moved by the smoothest surface
    through these, which is a fixed weighted sum of their displacements (Bookstein, "Principal Warps", 1989): the linear
    system is solved here, once, and a step is one matrix product.

    Args:
        control_points: k, at least 2.

    Raises:
        ValueError: fewer than 2×2 control points.
    """

    def __init__(self, bound: float | None = None, control_points: int = 4):
        if control_points < 2:
            raise ValueError(f"control_points: {control_points} given; must be at least 2, to a side")
        line = np.linspace(-1, 1, control_points)
        centers_N2 = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
        super().__init__(bound, centers_N2.ravel().tolist())
        square_NN = np.square(centers_N2[:, None] - centers_N2).sum(-1)
        affine_N3 = np.column_stack((np.ones(len(centers_N2)), centers_N2))
        # The bending function r² log r² at the control points, and beside it the affine part, which bends nothing.
        bending_NN = square_NN * np.log(np.where(square_NN > 0, square_NN, 1))
        system = np.block([[bending_NN, affine_N3], [affine_N3.T, np.zeros((3, 3))]])
        solution = np.linalg.inv(system)[:, : len(centers_N2)]
        self.centers_N2: Tensor
        self.solution_MN: Tensor
        self.register_buffer("centers_N2", torch.tensor(centers_N2, dtype=torch.float32), persistent=False)
        self.register_buffer("solution_MN", torch.tensor(solution, dtype=torch.float32), persistent=False)

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        centers_N2, solution_MN = self.centers_N2.to(theta.dtype), self.solution_MN.to(theta.dtype)
        square = (points[..., None, :] - centers_N2).square().sum(-1)
        # Clamped for the gradient of points: that of the logarithm is infinite on a control point.
        bending = square * square.clamp(min=1e-12).log()
        weights = torch.cat((bending, torch.ones_like(points[..., :1]), points), -1) @ solution_MN
        # Displacements in place of positions: exactly none at the identity.
        return points + product(weights, (self.readable(theta) - centers_N2).mT)

    def readable(self, theta: Tensor) -> Tensor:
        """θ (B, 2 · k²) as the control points' places in the input (B, k², 2)."""
        return theta.view(-1, len(self.centers_N2), 2)


TRANSFORMS: dict[str, type[Transform]] = {
    "affine": Affine, "similarity": Similarity, "attention": Attention, "projective": Projective,
    "tps": ThinPlateSpline,
}  # fmt: skip
