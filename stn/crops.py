"""Random resized crops: a window of the image, enlarged to the size of the image.

Szegedy et al., "Going Deeper with Convolutions" (2015), section 6, in the form of torchvision's ``RandomResizedCrop``.
The aspect ratio of a window is relative to that of the image, so that windows of words are words wide.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stn.transforms.coordinates import constant

ASPECTS = (3 / 4, 4 / 3)  # smallest and largest aspect ratio of a window, relative to that of the image
ATTEMPTS = 10


def draw_windows(count: int, size: tuple[int, int], shares: Sequence[float], generator: torch.Generator) -> Tensor:
    """Draw a window of whole pixels for each of ``count`` images: (count, 4), on the CPU.

    The last dimension holds the top, left, height and width in pixels. The window's share of the area is uniform, the
    logarithm of its aspect ratio is uniform between those of :data:`ASPECTS`, and so is its position. Windows that do
    not fit into the image are drawn again; after ten attempts the window is the whole image.

    Args:
        count: number of images.
        size: height and width of the images.
        shares: smallest and largest share of the area.
        generator: source of random numbers.
    """
    height, width = size
    low, high = (math.log(aspect) for aspect in ASPECTS)
    share_AN, aspect_AN = torch.rand(2, ATTEMPTS, count, generator=generator)
    area_AN = height * width * (shares[0] + share_AN * (shares[1] - shares[0]))
    aspect_AN = torch.exp(low + aspect_AN * (high - low)) * (width / height)
    tall_AN, wide_AN = (area_AN / aspect_AN).sqrt().round(), (area_AN * aspect_AN).sqrt().round()
    fits_AN = (tall_AN >= 1) & (tall_AN <= height) & (wide_AN >= 1) & (wide_AN <= width)
    first = fits_AN.int().argmax(0, keepdim=True)
    fits = fits_AN.any(0)
    tall = torch.where(fits, tall_AN.gather(0, first)[0], height)
    wide = torch.where(fits, wide_AN.gather(0, first)[0], width)
    top, left = torch.rand(2, count, generator=generator)
    return torch.stack(((top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor(), tall, wide), 1)


def window_points(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the points (B, H, W, 2) that a crop samples, in the coordinates of :mod:`stn.transforms.coordinates`.

    Points within half a pixel of the window's border are moved inward by up to half a pixel. The crop then shows no
    pixel outside the window, as if the window had been cut out first.

    Args:
        windows: top, left, height and width (B, 4) in pixels.
        size: height and width of the images.
    """
    lines = []
    for pixels, start, extent in zip(size, windows[:, :2].T, windows[:, 2:].T, strict=True):
        centers = (torch.arange(pixels, device=windows.device) + 0.5) / pixels
        inside = torch.minimum((centers * extent[:, None]).clamp(min=0.5), extent[:, None] - 0.5)
        lines.append((start[:, None] + inside) * (2 / pixels) - 1)
    y_BH, x_BW = lines
    height, width = size
    return torch.stack((x_BW[:, None].expand(-1, height, -1), y_BH[:, :, None].expand(-1, -1, width)), -1)


def map_to_windows(windows: Tensor, size: Sequence[float], points: Tensor) -> Tensor:
    """Map points (B, N, 2) of crops to points of the images, (B, N, 2). None is moved inward.

    ``windows`` and ``size`` are those of :func:`window_points`.
    """
    pixels_2 = constant(tuple(size), windows)
    start_B2, extent_B2 = windows.split(2, 1)
    scale_B2, shift_B2 = extent_B2 / pixels_2, (2 * start_B2 + extent_B2) / pixels_2 - 1
    return points * scale_B2.flip(1)[:, None] + shift_B2.flip(1)[:, None]
