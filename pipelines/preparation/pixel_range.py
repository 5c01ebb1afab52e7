"""Pixels of more than 8 bits: the range of a data set, and its scaling to 8 bits.

PIL opens gray images of 16 and 32 bits and of floats in the modes I and F. A file does not say which values stand for
black and white: 12-bit cameras store 0 to 4,095 in 16 bits, and floats may have any range. So one range is used for all
images of a data set, and models keep it for new images.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from PIL import Image

WHITES = (255, 1023, 4095, 16383, 65535)  # of 8, 10, 12, 14 and 16 bits
MIN_BRIGHTNESS = 0.25  # the brightest pixel of a data set, relative to white
MIN_INSIDE = 0.05  # share of an image's pixels in the range; with fewer the image would be black or white all over


class PixelRange(NamedTuple):
    """The values that become black and white."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


class Extrema(NamedTuple):
    """The smallest and the largest pixel of an image, and whether its pixels are floats."""

    low: float
    high: float
    is_float: bool


def is_deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits per pixel. PIL opens color images with 8 bits."""
    return image.mode.startswith(("I", "F"))


def measure(image: Image.Image) -> Extrema:
    """The extrema of an image for which :func:`is_deep` holds.

    Raises:
        ValueError: it has pixels that are NaN or infinite.
    """
    pixels = np.asarray(image)
    if invalid := int((~np.isfinite(pixels)).sum()):
        raise ValueError(f"{invalid} of its {pixels.size} pixels are NaN or infinite")
    return Extrema(float(pixels.min()), float(pixels.max()), image.mode == "F")


def find_range(extrema: Collection[Extrema]) -> PixelRange:
    """The range of a data set with these images.

    It is 0 to the smallest white of 8, 10, 12, 14 or 16 bits that holds all pixels; for floats also 0 to 1. Where no
    pixel reaches a quarter of it, or pixels are negative or beyond 16 bits, it is the range of the pixels themselves.
    """
    low, high = min(image.low for image in extrema), max(image.high for image in extrema)
    whites = (1, *WHITES) if any(image.is_float for image in extrema) else WHITES
    white = next((white for white in whites if high <= white), 0)
    if low >= 0 and high > MIN_BRIGHTNESS * white > 0:
        return PixelRange(0.0, float(white))
    return PixelRange(low, high if high > low else low + 1)


def to_eight_bits(image: Image.Image, pixel_range: PixelRange) -> Image.Image:
    """Scale an image for which :func:`is_deep` holds to 8-bit gray; pixels outside the range become black or white.

    Raises:
        ValueError: pixels are NaN or infinite, or almost all lie outside the range.
    """
    extrema = measure(image)
    pixels = np.asarray(image).astype(np.float64)
    low, high = pixel_range
    inside = ((pixels >= low) & (pixels <= high)).mean()
    if inside < MIN_INSIDE:
        raise ValueError(
            f"its pixels are {PixelRange(extrema.low, extrema.high)}, and {inside:.0%} of them lie in the range "
            f"{pixel_range}, which is black to white"
        )
    return Image.fromarray(np.uint8(np.clip((pixels - low) * (255.0 / (high - low)), 0, 255)))
