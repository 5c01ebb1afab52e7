"""θ → sampling grid: the transform families of a spatial transformer.

Coordinates are those of ``torch.nn.functional.grid_sample`` with ``align_corners=False``, fixed throughout this
library: (-1, -1) is the outer corner of the upper left pixel and (1, 1) that of the lower right one, so a θ means
the same at every resolution. x points right, y points down.
"""

import math

import torch
from torch import Tensor, nn

ALIGN_CORNERS = False
PADDING_MODES = ("zeros", "border", "reflection")


def sampling_grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """The grids (B, height, width, 2) of affine matrices (B, 2, 3): what ``F.affine_grid`` returns.

    One matrix product for the whole batch, where ``F.affine_grid`` has a small one for each image.
    """
    device, dtype = matrices.device, matrices.dtype
    x = (2 * torch.arange(width, device=device, dtype=dtype) + 1) / width - 1
    y = (2 * torch.arange(height, device=device, dtype=dtype) + 1) / height - 1
    points_3HW = torch.stack((x.expand(height, width), y[:, None].expand(height, width), x.new_ones(height, width)))
    grid = matrices.reshape(-1, 3) @ points_3HW.flatten(1)
    return grid.view(-1, 2, height, width).permute(0, 2, 3, 1)


class Affine(nn.Module):
    """The affine family, Jaderberg et al. (2015), section 3.2, equation 1: six free numbers.

    θ, of shape (B, 6), is the matrix (B, 2, 3) row by row. It maps a target point (x, y, 1) of the output to the
    source point of the input that is sampled there, so θ is the inverse of what happens to the image's content.
    """

    identity: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    @staticmethod
    def matrix(theta: Tensor) -> Tensor:
        """θ (B, P) as matrices (B, 2, 3)."""
        return theta.view(-1, 2, 3)

    def forward(self, theta: Tensor, height: int, width: int) -> Tensor:
        """The sampling grid (B, height, width, 2) of θ (B, P).

        Always in at least fp32, under autocast too: bf16 has 8 bits of precision, less than the width of an image
        in pixels needs.
        """
        with torch.autocast(theta.device.type, enabled=False):
            theta = theta if theta.dtype == torch.float64 else theta.float()
            return sampling_grid(self.matrix(theta), height, width)

    def describe(self, theta: Tensor, height: int, width: int) -> dict[str, Tensor]:
        """What θ (B, P) does, as numbers people can read, each of shape (B,).

        - ``scale``: √|det|; below 1 zooms in;
        - ``rotation``: of the grid, in degrees within (-180, 180], clockwise as displayed: the rotation of the
          polar decomposition, which for 2×2 matrices is atan2(c - b, a + d) where the determinant is positive;
        - ``shift_x``, ``shift_y``: in units of half the image; positive looks to the right and downward;
        - ``determinant``: negative where the image is mirrored;
        - ``outside``: share of the grid's points that lie outside the image, within [0, 1].
        """
        matrix_B23 = self.matrix(theta.float())
        a, b, c, d = (matrix_B23[:, i, j] for i in (0, 1) for j in (0, 1))
        determinant = a * d - b * c
        grid_BHW2 = self(theta, height, width)
        return {
            "scale": determinant.abs().sqrt(),
            "rotation": torch.atan2(c - b, a + d) * (180 / math.pi),
            "shift_x": matrix_B23[:, 0, 2],
            "shift_y": matrix_B23[:, 1, 2],
            "determinant": determinant,
            "outside": (grid_BHW2.abs() > 1).any(-1).float().mean((1, 2)),
        }


class Similarity(Affine):
    """Rotation, one scale and shift: θ = (a, b, x, y) is the matrix (a, -b, x; b, a, y).

    Linear in its four numbers, so that no gradient has an angle to unwind.
    """

    identity = (1.0, 0.0, 0.0, 0.0)

    @staticmethod
    def matrix(theta: Tensor) -> Tensor:
        a, b, x, y = theta.unbind(1)
        return torch.stack((a, -b, x, b, a, y), 1).view(-1, 2, 3)


class Attention(Affine):
    """One scale and shift, Jaderberg et al. (2015), section 3.2, equation 2: θ = (s, x, y) is (s, 0, x; 0, s, y)."""

    identity = (1.0, 0.0, 0.0)

    @staticmethod
    def matrix(theta: Tensor) -> Tensor:
        s, x, y = theta.unbind(1)
        zero = torch.zeros_like(s)
        return torch.stack((s, zero, x, zero, s, y), 1).view(-1, 2, 3)


TRANSFORMS: dict[str, type[Affine]] = {"affine": Affine, "similarity": Similarity, "attention": Attention}
