"""Classifiers, with or without a spatial transformer in front."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stn.localization import Localization, conv_pool_size
from stn.pooling import MaxPool2x2
from stn.spatial_transformer import SpatialTransformer
from stn.transforms import TRANSFORMS


class ConvClassifier(nn.Sequential):
    """The classifier of PyTorch's spatial-transformer tutorial, for any image: (B, C, H, W) → logits (B, classes).

    Two 5×5 convolutions of 10 and 20 filters, each with a 2×2 max-pool, then linear layers of 50 units and
    ``classes``. The tutorial ends in log_softmax and uses nll_loss; logits with cross_entropy are the same
    mathematics.

    Args:
        image_shape: channels, height, width.
        dropout: probability, of whole channels after the second convolution and of units before the last layer.

    Raises:
        ValueError: the image is too small for the kernels.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, dropout: float = 0.0):
        in_channels, height, width = image_shape
        height, width = conv_pool_size(height, width, (5, 5), "classifier")
        super().__init__(
            nn.Conv2d(in_channels, 10, 5),
            MaxPool2x2(),
            nn.ReLU(),
            nn.Conv2d(10, 20, 5),
            nn.Dropout2d(dropout),
            MaxPool2x2(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(20 * height * width, 50),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(50, classes),
        )


class Network(nn.Module):
    """A classifier behind an optional spatial transformer: normalized images (B, C, H, W) → logits (B, classes)."""

    def __init__(self, classifier: nn.Module, transformer: SpatialTransformer | None = None):
        super().__init__()
        self.transformer = transformer
        self.classifier = classifier

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, classes) and the θ (B, P) that they were reached by; None without a transformer."""
        if self.transformer is None:
            return self.classifier(images), None
        theta = self.transformer.theta(images)
        return self.classifier(self.transformer.warp(images, theta)), theta

    def forward(self, images: Tensor, with_theta: bool = False) -> Tensor | tuple[Tensor, Tensor | None]:
        """Logits, or the pair of :meth:`predict`: of a network wrapped for DDP only ``forward`` may be called."""
        logits, theta = self.predict(images)
        return (logits, theta) if with_theta else logits


class RawClassifier(nn.Module):
    """A trained network for use: takes pixels as they come and normalizes them itself.

    uint8 images (B, C, H, W) → class (B,) int64, probabilities (B, classes) fp32 and, with a transformer, the matrix
    of θ (B, 2, 3) fp32.

    Args:
        network: what was trained; a copy of it is not made.
        mean, std: of each channel, for pixels scaled to [0, 1]: those it was trained with.
    """

    def __init__(self, network: Network, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits, theta = self.network.predict((images.float() - self.mean) / self.std)
        probabilities = logits.float().softmax(1)
        outputs = {"class": probabilities.argmax(1), "probabilities": probabilities}
        if self.network.transformer is not None and theta is not None:
            outputs["theta"] = self.network.transformer.transform.matrix(theta)
        return outputs


def build_network(
    image_shape: tuple[int, int, int], classes: int, transformer: dict | None, dropout: float = 0.0
) -> Network:
    """The network of a variant.

    With ``transformer={"localization": {}}`` it is the seed's network, 39,884 parameters at (3, 32, 32) and 10
    classes, and the tutorial's at (1, 28, 28), 27,360 parameters.

    Args:
        image_shape: channels, height, width.
        transformer: the keyword arguments of :class:`Localization` under ``localization``, the ``padding_mode`` of
            :class:`SpatialTransformer` and, under ``transform``, the name of the family, ``affine`` where there is
            none; None for the same classifier without a transformer.

    Raises:
        ValueError: the image is too small for the kernels, or a setting is none that the parts allow.
    """
    front = None
    if transformer is not None:
        options: dict[str, Any] = {"transform": "affine"} | transformer
        if (family := options.pop("transform")) not in TRANSFORMS:
            raise ValueError(f"transform: {family!r} is not one of {', '.join(TRANSFORMS)}")
        transform = TRANSFORMS[family]()
        localization = Localization(image_shape, transform.identity, **options.pop("localization"))
        front = SpatialTransformer(localization, transform=transform, **options)
    return Network(ConvClassifier(image_shape, classes, dropout), front)
