"""Color jitter: random brightness, contrast and saturation, as torchvision's ``ColorJitter`` in a fixed order."""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in the brightness of a pixel, ITU-R BT.601


def draw_factors(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Draw factors of brightness, contrast and saturation, uniform in [1 - strength, 1 + strength]: (count, 3)."""
    return 1 + strength * (2 * torch.rand(count, 3, generator=generator) - 1)


def jitter_colors(images_NHWC: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, then contrast, then saturation; returns ``images_NHWC``, changed in place.

    Brightness is a factor of all values. Contrast is a factor of the distance from the image's mean brightness,
    saturation of the distance from the pixel's own brightness. Each result is clamped to [0, 255]. Images without three
    channels have no saturation.

    Args:
        images_NHWC: fp32 (B, H, W, C) with values in [0, 255].
        factors: (B, 3), a result of :func:`draw_factors`.
    """
    brightness, contrast, saturation = factors.T[..., None, None, None]
    images_NHWC.mul_(brightness).clamp_(0, 255)
    mean = _brightness(images_NHWC).mean((1, 2, 3), keepdim=True)
    images_NHWC.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 255)
    if images_NHWC.shape[-1] == 3:
        gray = _brightness(images_NHWC)
        images_NHWC.mul_(saturation).add_(gray * (1 - saturation)).clamp_(0, 255)
    return images_NHWC


def _brightness(images_NHWC: Tensor) -> Tensor:
    """The brightness (B, H, W, 1) of each pixel. Images without three channels are returned unchanged."""
    if images_NHWC.shape[-1] != 3:
        return images_NHWC
    red, green, blue = images_NHWC.split(1, -1)
    return red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
