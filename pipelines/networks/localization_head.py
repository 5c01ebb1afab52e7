"""Localization networks that end in a small head behind the features of another network."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipelines.settings.image_form import height_and_width
from pipelines.settings.variants import LocalizationHeadParams, Size
from stn.localization import ACTIVATIONS, identity_layer


class HeadedLocalization(nn.Module):
    """Maps images (B, C, H, W) to θ (B, len(identity)): resize, features, a 1×1 convolution, pool, linear layers.

    The pool keeps a few positions: averaged over the whole image, features say little about where something is. The
    last layer starts with zero weights and the identity as its bias.

    Args:
        features: maps images to features (B, C', h, w).
        shape: (C', h, w).
        identity: the θ that an untrained network predicts.
        params: settings of the head.
    """

    def __init__(
        self,
        features: nn.Module,
        shape: tuple[int, int, int],
        identity: Sequence[float],
        params: LocalizationHeadParams,
    ):
        super().__init__()
        size = params.input_size
        self.resize = nn.Identity() if size is None else nn.AdaptiveAvgPool2d(height_and_width(size))
        self.features = features
        channels, height, width = shape
        pooled = min(params.pool, height), min(params.pool, width)
        activate = ACTIVATIONS[params.activation]
        layers = [nn.Conv2d(channels, params.channels, 1), activate(), nn.AdaptiveAvgPool2d(pooled), nn.Flatten()]
        in_features = params.channels * pooled[0] * pooled[1]
        for hidden in params.hidden:
            layers += [nn.Linear(in_features, hidden), activate()]
            in_features = hidden
        self.head = nn.Sequential(*layers, identity_layer(in_features, identity))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(self.resize(images)))


def features_shape(
    features: nn.Module, image_shape: tuple[int, int, int], input_size: Size | None
) -> tuple[int, int, int]:
    """Return the shape (C, h, w) of the features of an image, computed on torch's meta device.

    Args:
        image_shape: channels, height, width.
        input_size: the size to which the image is resized before.

    Raises:
        ValueError: the features are not of the form (B, C, h, w).
    """
    size = image_shape[1:] if input_size is None else height_and_width(input_size)
    probe = copy.deepcopy(features).to("meta").eval()
    with torch.no_grad():
        shape = tuple(probe(torch.empty(1, image_shape[0], *size, device="meta")).shape)
    if len(shape) != 4:
        raise ValueError(f"localization: features of the shape {shape} are no image features (B, C, H, W)")
    return shape[1:]
