"""Image classifiers with an optional spatial transformer in front."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from stn.composition import Parallel, Series
from stn.convolution import Conv2d
from stn.localization import Localization, check_layers, conv_pool_size
from stn.pooling import MaxPool2x2
from stn.settings import NetworkSettings, Normalization, TransformerSettings
from stn.spatial_transformer import SpatialTransformer
from stn.transforms import TRANSFORMS, Transform


class ConvClassifier(nn.Sequential):
    """Classifier of images (B, C, H, W): convolutions with 2×2 max-pools, then linear layers. It returns logits
    (B, classes).

    The defaults are the classifier of PyTorch's spatial-transformer tutorial. The tutorial uses log_softmax and
    nll_loss, which is equivalent to logits with cross_entropy. Without convolutions the network is fully connected.

    Args:
        image_shape: channels, height, width.
        classes: number of classes.
        dropout: probability of dropping a whole channel after the last convolution, and of dropping a unit before the
            last layer.
        channels, kernel_sizes: of each convolution. Both may be empty.
        hidden: width of each linear layer except the last.

    Raises:
        ValueError: the image is too small for the kernels, or ``channels`` and ``kernel_sizes`` differ in length.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        dropout: float = 0.0,
        *,
        channels: Sequence[int] = (10, 20),
        kernel_sizes: Sequence[int] = (5, 5),
        hidden: Sequence[int] = (50,),
    ):
        in_channels, height, width = image_shape
        check_layers(channels, kernel_sizes, "classifier")
        height, width = conv_pool_size(height, width, kernel_sizes, "classifier")
        layers: list[nn.Module] = []
        for i, (out_channels, kernel) in enumerate(zip(channels, kernel_sizes, strict=True), 1):
            layers.append(Conv2d(in_channels, out_channels, kernel))
            if i == len(channels):
                layers.append(nn.Dropout2d(dropout))
            layers += [MaxPool2x2(), nn.ReLU()]
            in_channels = out_channels
        layers.append(nn.Flatten())
        in_features = in_channels * height * width
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU()]
            in_features = width
        super().__init__(*layers, nn.Dropout(dropout), nn.Linear(in_features, classes))


class Network(nn.Module):
    """A classifier behind an optional spatial transformer.

    It maps normalized images (B, C, H, W) to logits (B, classes).
    """

    def __init__(self, classifier: nn.Module, transformer: SpatialTransformer | None = None):
        super().__init__()
        self.transformer = transformer
        self.classifier = classifier

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, classes), and the θ (B, P) of the warp, or None without a transformer."""
        if self.transformer is None:
            return self.classifier(images), None
        theta = self.transformer.theta(images)
        return self.classifier(self.transformer.warp(images, theta)), theta

    def forward(self, images: Tensor, with_theta: bool = False) -> Tensor | tuple[Tensor, Tensor | None]:
        """Return logits, or the pair of :meth:`predict` if ``with_theta`` is set.

        DistributedDataParallel supports no other method than ``forward``.
        """
        logits, theta = self.predict(images)
        return (logits, theta) if with_theta else logits


class RawClassifier(nn.Module):
    """A trained network that accepts raw pixels and normalizes them.

    It maps uint8 images (B, C, H, W) to ``class``, int64 (B,), ``probabilities``, fp32 (B, classes), and, with a
    transformer, ``theta``, fp32, in the form of :meth:`stn.transforms.Transform.readable`: matrices (B, 2, 3) for the
    affine families.

    Args:
        network: the trained network. It is not copied.
        normalization: the normalization of the training images.
    """

    def __init__(self, network: Network, normalization: Normalization):
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(normalization.mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(normalization.std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits, theta = self.network.predict((images.float() - self.mean) / self.std)
        probabilities = logits.float().softmax(1)
        outputs = {"class": probabilities.argmax(1), "probabilities": probabilities}
        if self.network.transformer is not None and theta is not None:
            outputs["theta"] = self.network.transformer.transform.readable(theta)
        return outputs


def build_network(settings: NetworkSettings) -> Network:
    """Build a network. Its weights are drawn from torch's global random state.

    With the default transformer the network has 39,884 parameters for images of (3, 32, 32) and 10 classes. For images
    of (1, 28, 28) it is the network of PyTorch's spatial-transformer tutorial, with 27,360 parameters.

    Raises:
        ValueError: the image is too small for the kernels, or a module does not accept a setting.
    """
    if settings.transformer is None:
        transformer, seen = None, settings.image_shape
    else:
        transformer = build_transformer(settings.image_shape, settings.transformer)
        channels, height, width = settings.image_shape
        seen = (channels * transformer.transform.heads, *(transformer.output_size or (height, width)))
    classifier = ConvClassifier(seen, settings.classes, settings.dropout, **asdict(settings.classifier))
    return Network(classifier, transformer)


def build_transformer(image_shape: tuple[int, int, int], settings: TransformerSettings) -> SpatialTransformer:
    """Build a spatial transformer, or a series of them, for images of ``image_shape`` (C, H, W).

    Raises:
        ValueError: as in :func:`build_network`.
    """
    for name, family in (("scale", "attention"), ("control_points", "tps")):
        if (value := getattr(settings, name)) is not None and family not in settings.transform:
            raise ValueError(f"{name}: {value} given; only {family} has it, not {', '.join(settings.transform)}")
    transforms = [_build_transform(name, settings) for name in settings.transform]
    if settings.parallel > 1:
        if len(transforms) > 1:
            names = list(settings.transform)
            raise ValueError(
                f"parallel: {settings.parallel} given, but transform: {names} is a series; set only one of them"
            )
        transforms = [Parallel(transforms[0], settings.parallel)]
    layers = asdict(settings.localization)
    localizations = [Localization(image_shape, transform.identity, **layers) for transform in transforms]
    size = settings.output_size
    options: dict[str, Any] = {
        "padding_mode": settings.padding_mode, "antialias": settings.antialias,
        "output_size": None if size is None else (size, size),
    }  # fmt: skip
    if len(transforms) > 1:
        return Series(localizations, transforms, **options)
    return SpatialTransformer(localizations[0], transform=transforms[0], **options)


def _build_transform(name: str, settings: TransformerSettings) -> Transform:
    if name not in TRANSFORMS:
        raise ValueError(f"transform: {name!r} is not one of {', '.join(TRANSFORMS)}")
    options: dict[str, Any] = {"bound": settings.bound}
    if name == "attention":
        options["scale"] = settings.scale
    if name == "tps" and settings.control_points is not None:
        options["control_points"] = settings.control_points
    return TRANSFORMS[name](**options)
