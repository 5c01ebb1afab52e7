"""Classifiers, with or without a spatial transformer in front."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stn.composition import Parallel, Series
from stn.convolution import Conv2d
from stn.localization import Localization, check_layers, conv_pool_size
from stn.pooling import MaxPool2x2
from stn.spatial_transformer import SpatialTransformer
from stn.transforms import TRANSFORMS


class ConvClassifier(nn.Sequential):
    """Convolutions, each with a 2×2 max-pool, then linear layers, for any image: (B, C, H, W) → logits (B, classes).

    The defaults are the classifier of PyTorch's spatial-transformer tutorial. That one ends in log_softmax and uses
    nll_loss; logits with cross_entropy are the same mathematics. Without convolutions it is a fully connected network.

    Args:
        image_shape: channels, height, width.
        dropout: probability, of whole channels after the last convolution and of units before the last layer.
        channels, kernel_sizes: of each convolution; both may be empty.
        hidden: widths of the linear layers before the last one.

    Raises:
        ValueError: the image is too small for the kernels, or channels and kernel sizes differ in number.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        dropout: float = 0.0,
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

    uint8 images (B, C, H, W) → class (B,) int64, probabilities (B, classes) fp32 and, with a transformer, θ fp32 in its
    family's form, :meth:`stn.transforms.Transform.readable`: matrices (B, 2, 3) for the affine families.

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
            outputs["theta"] = self.network.transformer.transform.readable(theta)
        return outputs


def build_network(
    image_shape: tuple[int, int, int],
    classes: int,
    transformer: dict | None,
    dropout: float = 0.0,
    classifier: dict | None = None,
) -> Network:
    """The network of a variant.

    With ``transformer={"localization": {}}`` it is the baseline network, 39,884 parameters at (3, 32, 32) and 10
    classes, and the tutorial's at (1, 28, 28), 27,360 parameters.

    Args:
        image_shape: channels, height, width.
        transformer: None for the same classifier without a transformer, or a dictionary of

            - ``localization``: the keyword arguments of :class:`Localization`;
            - ``transform``: the name of the family, ``affine`` where there is none, or a list of names, one after
              another as a :class:`Series`;
            - ``parallel``: how many of it side by side, as :class:`Parallel`; the classifier then sees so many images
              as channels;
            - ``scale`` of the family attention, ``control_points`` of tps, and ``bound`` of any;
            - ``output_size``: height and width, one number, of what the classifier sees;
            - ``padding_mode`` and ``antialias`` of :class:`SpatialTransformer`.
        classifier: ``channels``, ``kernel_sizes`` and ``hidden`` of :class:`ConvClassifier`; None: its defaults.

    Raises:
        ValueError: the image is too small for the kernels, or a setting is none that the parts allow.
    """
    of_classifier = classifier or {}
    if transformer is None:
        return Network(ConvClassifier(image_shape, classes, dropout, **of_classifier))
    settings: dict[str, Any] = {"transform": "affine", "parallel": 1} | transformer
    names, heads = settings.pop("transform"), settings.pop("parallel")
    names = [names] if isinstance(names, str) else names
    of_family = {"attention": {"scale": settings.pop("scale", None)},
                 "tps": {"control_points": settings.pop("control_points", None)}}  # fmt: skip
    for family, own in of_family.items():
        for key, value in own.items():
            if value is not None and family not in names:
                raise ValueError(f"{key}: {value} given; only {family} has it, not {', '.join(names)}")
    bound, size = settings.pop("bound", None), settings.pop("output_size", None)
    transforms = []
    for name in names:
        if name not in TRANSFORMS:
            raise ValueError(f"transform: {name!r} is not one of {', '.join(TRANSFORMS)}")
        own = {key: value for key, value in of_family.get(name, {}).items() if value is not None}
        transforms.append(TRANSFORMS[name](bound=bound, **own))
    if heads > 1:
        if len(transforms) > 1:
            raise ValueError(f"parallel: {heads} given, but transform: {names} is a series; there is one or the other")
        transforms = [Parallel(transforms[0], heads)]
    of_localization = settings.pop("localization")
    localizations = [Localization(image_shape, transform.identity, **of_localization) for transform in transforms]
    options: dict[str, Any] = settings | {"output_size": None if size is None else (size, size)}
    if len(transforms) > 1:
        front = Series(localizations, transforms, **options)
    else:
        front = SpatialTransformer(localizations[0], transform=transforms[0], **options)
    channels, height, width = image_shape
    seen = (channels * heads, *(front.output_size or (height, width)))
    return Network(ConvClassifier(seen, classes, dropout, **of_classifier), front)
