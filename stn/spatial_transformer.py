"""The spatial transformer: localization network, sampling grid and sampler in one module."""

import torch.nn.functional as F
from torch import Tensor, nn

from stn.transforms import ALIGN_CORNERS, PADDING_MODES, Affine, Transform


class Sampler(nn.Module):
    """Sample images at the points of a sampling grid.

    Images (B, C, H, W) are sampled bilinearly at a grid (B, h, w, 2): (B, C, h, w). Volumes (B, C, D, H, W) are sampled
    trilinearly at a grid (B, d, h, w, 3): (B, C, d, h, w). The result has the dtype of the images.

    Raises:
        ValueError: ``padding_mode`` is unknown.
    """

    def __init__(self, padding_mode: str = "zeros"):
        super().__init__()
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode: {padding_mode!r} is not one of {', '.join(PADDING_MODES)}")
        self.padding_mode = padding_mode

    def forward(self, images: Tensor, grid: Tensor) -> Tensor:
        # grid_sample requires one dtype for both arguments, and rounding the coordinates would lose precision.
        sampled = F.grid_sample(
            images.to(grid.dtype), grid, padding_mode=self.padding_mode, align_corners=ALIGN_CORNERS
        )
        return sampled.to(images.dtype)


class SpatialTransformer(nn.Module):
    """A spatial transformer (Jaderberg et al., 2015, section 3), in front of or inside any network.

    >>> transformer = SpatialTransformer(Localization((3, 32, 32), Affine.identity))
    >>> model = nn.Sequential(transformer, my_classifier)

    It maps images (B, C, H, W) to rectified images (B, C, h, w). With a :class:`~stn.composition.Parallel` transform
    the rectified images have shape (B, heads · C, h, w).

    With :class:`~stn.transforms.Affine3d` it maps volumes (B, C, D, H, W) to volumes.
    :class:`~stn.localization.Localization` supports images only, so volumes need a custom localization network. The
    last layer of the network must start with zero weights and the identity as its bias:

    >>> last = nn.Linear(32, 12)
    >>> nn.init.zeros_(last.weight)
    >>> last.bias.data = torch.tensor(Affine3d.identity)
    >>> localization = nn.Sequential(nn.Conv3d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), last)
    >>> transformer = SpatialTransformer(localization, transform=Affine3d())

    Args:
        localization: maps images (B, C, H, W) to θ (B, P), where P is the number of parameters of ``transform``.
        padding_mode: values sampled outside the image: ``zeros``, ``border`` or ``reflection``. On normalized images
            zero is the mean color, not the background.
        transform: the transform family. None: :class:`~stn.transforms.Affine`.
        output_size: height and width of the rectified images. None: the size of the input. Volumes always keep their
            size.
        antialias: number n of samples per output pixel and axis. Each output pixel is the mean of n×n samples of a grid
            that is n times as fine. A bilinear sample reads four neighbors only, so a grid coarser than the image skips
            pixels. The paper pools in the same way after the transformers of its RTS and TC networks.

    Raises:
        ValueError: ``padding_mode`` is unknown.
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
        """Return the localization networks: one, or several in a :class:`~stn.composition.Series`."""
        return [self.localization]

    def theta(self, images: Tensor) -> Tensor:
        """Predict θ (B, P) for images (B, C, H, W), within the bound of the transform."""
        return self.transform.bounded(self.localization(images))

    def resample(self, images: Tensor, theta: Tensor) -> Tensor:
        """Resample images (B, C, H, W) at the grid of θ (B, P): (B, C, heads · h, w), heads stacked vertically."""
        size, fine = self.output_size or images.shape[2:], self.antialias
        sampled = self.sampler(images, self.transform(theta, *(pixels * fine for pixels in size)))
        if fine == 1:
            return sampled
        return F.avg_pool2d(sampled, fine) if images.ndim == 4 else F.avg_pool3d(sampled, fine)

    def warp(self, images: Tensor, theta: Tensor) -> Tensor:
        """Resample images (B, C, H, W) at the grid of θ (B, P): (B, heads · C, h, w), heads stacked as channels."""
        resampled = self.resample(images, theta)
        heads = self.transform.heads
        return resampled if heads == 1 else resampled.unflatten(2, (heads, -1)).transpose(1, 2).flatten(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.warp(images, self.theta(images))
