"""The base class of all transform families and of their compositions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stn.transforms.coordinates import at_least_fp32, constant, pixel_centers


class Transform(nn.Module):
    """A family of transforms with P parameters θ.

    Args:
        bound: the largest distance of each parameter from its identity value, see :meth:`bounded`. None: no bound.
        identity: replaces the family's own identity.

    Raises:
        ValueError: ``bound`` is not positive.
    """

    identity: tuple[float, ...] = ()
    """The P parameters that a localization network starts from."""
    heads = 1
    """The number of rectified images for each input image, see :class:`stn.composition.Parallel`."""

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
        """Bound a prediction (B, P) of a localization network: identity + bound · tanh((θ - identity) / bound).

        The bound is smooth. At the identity it changes neither the value nor the slope.
        """
        if self.bound is None:
            return theta
        return self.start_P + self.bound * torch.tanh((at_least_fp32(theta) - self.start_P) / self.bound)

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        """Map points of the output, (N, 2) or (B, N, 2), to points of the input, (B, N, 2).

        θ has shape (B, P) and is at least fp32.
        """
        raise NotImplementedError

    def grid(self, theta: Tensor, *size: int) -> Tensor:
        """Compute :meth:`forward` for a θ that is at least fp32."""
        return self.map(theta, pixel_centers(size, theta)).unflatten(1, size)

    def forward(self, theta: Tensor, *size: int) -> Tensor:
        """Compute the sampling grid of θ (B, P): (B, height, width, 2), or (B, depth, height, width, 3) for volumes.

        ``size`` is the height and width of the output, or the depth, height and width. The grid is at least fp32, also
        under autocast.
        """
        if theta.is_meta:  # shapes only; there is no autocast on torch's meta device
            return self.grid(at_least_fp32(theta), *size)
        with torch.autocast(theta.device.type, enabled=False):
            return self.grid(at_least_fp32(theta), *size)

    def readable(self, theta: Tensor) -> Tensor:
        """Return θ (B, P) in the usual form of the family.

        The form is a matrix, (B, 2, 3) or (B, 3, 3), or a list of points of the input, (B, N, 2).
        """
        raise NotImplementedError

    def local_matrix(self, theta: Tensor) -> Tensor:
        """Return the affine matrix (B, 2, 3) with the value and slope of θ (B, P) at the center of the output.

        The slope is a central difference of two points that are 1/64 of the image apart.
        """
        step = 1 / 64  # in units of half the image, to either side
        probes = constant(((0, 0), (-step, 0), (step, 0), (0, -step), (0, step)), theta)
        center, left, right, above, below = self.map(theta, probes).unbind(1)
        return torch.stack(((right - left) / (2 * step), (below - above) / (2 * step), center), 2)

    def describe(self, theta: Tensor, *size: int) -> dict[str, Tensor]:
        """Describe θ (B, P) by quantities that people can read, each of shape (B,).

        ``size`` is the height and width of the images, or the depth, height and width.

        All quantities except ``outside`` describe :meth:`local_matrix`, which is the whole transform for affine
        families:

        - ``scale``: √|det|. A scale below 1 zooms in.
        - ``rotation``: rotation of the grid in degrees, in (-180, 180], clockwise as displayed. It is the rotation of
          the polar decomposition in pixels; for 2×2 matrices with a positive determinant this is atan2(c - b, a + d).
        - ``shift_x``, ``shift_y``: shift in units of half the image. Positive shifts look right and down.
        - ``determinant``: negative if the image is mirrored.
        - ``outside``: share of the grid points that lie outside the image, in [0, 1].
        """
        matrix_B23 = self.local_matrix(theta.float())
        a, b, c, d = (matrix_B23[:, i, j] for i in (0, 1) for j in (0, 1))
        determinant = a * d - b * c
        height, width = size
        aspect = width / height
        return {
            "scale": determinant.abs().sqrt(),
            "rotation": torch.atan2(c / aspect - b * aspect, a + d) * (180 / math.pi),
            "shift_x": matrix_B23[:, 0, 2],
            "shift_y": matrix_B23[:, 1, 2],
            "determinant": determinant,
            "outside": self.outside(theta, *size),
        }

    def outside(self, theta: Tensor, *size: int) -> Tensor:
        """Return the share of the points of each grid that lie outside the image, (B,)."""
        return (self(theta, *size).abs() > 1).any(-1).flatten(1).float().mean(1)
