"""The spatial transformer: localization network, sampling grid and sampler as one module."""

import torch.nn.functional as F
from torch import Tensor, nn

from stn.transforms import ALIGN_CORNERS, PADDING_MODES, Affine, Transform


class Sampler(nn.Module):
    """Bilinear sampling: images (B, C, H, W) at the points of a grid (B, h, w, 2) → (B, C, h, w), in their dtype;
    volumes (B, C, D, H, W) trilinearly at those of a grid (B, d, h, w, 3).

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

    Images (B, C, H, W) → rectified images (B, C, h, w), of a :class:`~stn.composition.Parallel` transform
    (B, heads · C, h, w).

    With :class:`~stn.transforms.Affine3d` the same for volumes (B, C, D, H, W); :class:`~stn.localization.Localization`
    is for images, so that the localization network is one of your own, its last layer zero but for the identity:

    >>> last = nn.Linear(32, 12)
    >>> nn.init.zeros_(last.weight)
    >>> last.bias.data = torch.tensor(Affine3d.identity)
    >>> localization = nn.Sequential(nn.Conv3d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), last)
    >>> transformer = SpatialTransformer(localization, transform=Affine3d())

    Args:
        localization: maps images (B, C, H, W) to θ (B, P), P the number of the family's parameters.
        padding_mode: what is sampled outside the image: ``zeros``, ``border`` or ``reflection``. On normalized
            images zero is the mean color, not the background.
        transform: the family that θ belongs to.
        output_size: height and width of what is returned; None: those of the input, which volumes always keep.
        antialias: each output pixel is the mean of so many samples to a side, on a grid so much finer. A bilinear
            sample sees four neighbors only, so a grid coarser than the image skips pixels (the paper pools likewise
            after the transformers of its RTS and TC networks).

    Raises:
        ValueError: an unknown ``padding_mode``.
    """

    def __init__(
        self,
        localization: nn.Module,
        padding_mode: str = "zeros",
        transform: Transform | None = None,
        output_size: tuple[int, int] | None = None,
        antialias: int = 1,
    ):
        super().__init__()
        self.localization = localization
        self.transform = Affine() if transform is None else transform
        self.sampler = Sampler(padding_mode)
        self.output_size, self.antialias = output_size, antialias

    def localizations(self) -> list[nn.Module]:
        """The localization networks: one, but in a :class:`~stn.composition.Series`."""
        return [self.localization]

    def theta(self, images: Tensor) -> Tensor:
        """θ (B, P) for images (B, C, H, W), within the transform's bound."""
        return self.transform.bounded(self.localization(images))

    def resample(self, images: Tensor, theta: Tensor) -> Tensor:
        """Images (B, C, H, W) on the grid of θ (B, P): (B, C, heads · h, w), each head's below the one before."""
        size, fine = self.output_size or images.shape[2:], self.antialias
        sampled = self.sampler(images, self.transform(theta, *(pixels * fine for pixels in size)))
        if fine == 1:
            return sampled
        return F.avg_pool2d(sampled, fine) if images.ndim == 4 else F.avg_pool3d(sampled, fine)

    def warp(self, images: Tensor, theta: Tensor) -> Tensor:
        """Images (B, C, H, W) resampled on the grid of θ (B, P): (B, C, h, w), heads behind one another as channels."""
        resampled = self.resample(images, theta)
        heads = self.transform.heads
        return resampled if heads == 1 else resampled.unflatten(2, (heads, -1)).transpose(1, 2).flatten(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.warp(images, self.theta(images))
