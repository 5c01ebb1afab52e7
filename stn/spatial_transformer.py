"""The spatial transformer: localization network, sampling grid and sampler as one module."""

import torch.nn.functional as F
from torch import Tensor, nn

from stn.transforms import ALIGN_CORNERS, PADDING_MODES, Affine


class Sampler(nn.Module):
    """Bilinear sampling: images (B, C, H, W) at the points of a grid (B, h, w, 2) → (B, C, h, w), in their dtype.

    Raises:
        ValueError: an unknown ``padding_mode``.
    """

    def __init__(self, padding_mode: str = "zeros"):
        super().__init__()
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode: {padding_mode!r} is not one of {', '.join(PADDING_MODES)}")
        self.padding_mode = padding_mode

    def forward(self, images: Tensor, grid: Tensor) -> Tensor:
        # grid_sample wants one dtype for both, and the coordinates are what must not be rounded.
        sampled = F.grid_sample(
            images.to(grid.dtype), grid, padding_mode=self.padding_mode, align_corners=ALIGN_CORNERS
        )
        return sampled.to(images.dtype)


class SpatialTransformer(nn.Module):
    """A spatial transformer (Jaderberg et al., 2015, section 3) for use in front of, or inside, any network.

    >>> transformer = SpatialTransformer(Localization((3, 32, 32), Affine.identity))
    >>> model = nn.Sequential(transformer, my_classifier)

    Args:
        localization: maps images (B, C, H, W) to θ (B, P), P the number of the family's parameters.
        padding_mode: what is sampled outside the image: ``zeros``, ``border`` or ``reflection``. On normalized
            images zero is the mean color, not the background.
        transform: the family that θ belongs to.

    Raises:
        ValueError: an unknown ``padding_mode``.
    """

    def __init__(self, localization: nn.Module, padding_mode: str = "zeros", transform: Affine | None = None):
        super().__init__()
        self.localization = localization
        self.transform = Affine() if transform is None else transform
        self.sampler = Sampler(padding_mode)

    def theta(self, images: Tensor) -> Tensor:
        """θ (B, P) for images (B, C, H, W)."""
        return self.localization(images)

    def warp(self, images: Tensor, theta: Tensor) -> Tensor:
        """Images (B, C, H, W) resampled on the grid of θ (B, P), in the same size."""
        return self.sampler(images, self.transform(theta, *images.shape[-2:]))

    def forward(self, images: Tensor) -> Tensor:
        return self.warp(images, self.theta(images))
