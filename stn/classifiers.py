"""Image classifiers with optional spatial transformers in front and inside."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from stn.convolution import Conv2d
from stn.insertion import InnerTransformer, find_submodule, input_shapes
from stn.localization import check_layers, conv_pool_size
from stn.pooling import MaxPool2x2
from stn.settings import ClassifierSettings, NetworkSettings, Normalization
from stn.spatial_transformer import SpatialTransformer
from stn.transformers import build_transformer

INPUT = "input"
"""The place of the transformer in front of the classifier."""
SECOND_VIEW = "second view"
"""The key of θ of the second views, see :meth:`Network.predict`."""


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
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (out_channels, kernel) in enumerate(zip(channels, kernel_sizes, strict=True), 1):
            layers[f"conv{i}"] = Conv2d(in_channels, out_channels, kernel)
            if i == len(channels):
                layers["conv_dropout"] = nn.Dropout2d(dropout)
            layers[f"pool{i}"], layers[f"relu{i}"] = MaxPool2x2(), nn.ReLU()
            in_channels = out_channels
        layers["flatten"] = nn.Flatten()
        in_features = in_channels * height * width
        for i, width in enumerate(hidden, 1):
            layers[f"hidden{i}"], layers[f"hidden_relu{i}"] = nn.Linear(in_features, width), nn.ReLU()
            in_features = width
        layers["dropout"], layers["logits"] = nn.Dropout(dropout), nn.Linear(in_features, classes)
        super().__init__(layers)


class Network(nn.Module):
    """A classifier with optional spatial transformers in front and inside.

    It maps normalized images (B, C, H, W) to logits (B, classes).

    Args:
        classifier: any module that maps images to logits.
        transformer: in front of the classifier.
        inner: each before a submodule of the classifier, by the dotted name of the submodule, see :func:`layers_of`.

    Raises:
        ValueError: there is no such submodule.
    """

    def __init__(
        self,
        classifier: nn.Module,
        transformer: SpatialTransformer | None = None,
        inner: Mapping[str, SpatialTransformer] | None = None,
    ):
        super().__init__()
        self.transformer = transformer
        self.classifier = classifier
        self.inner = nn.ModuleDict()
        for place, of_place in (inner or {}).items():
            hook = InnerTransformer(of_place)
            find_submodule(layers_of(classifier), place).register_forward_pre_hook(hook)
            name = place.replace(".", "_")  # names of modules have no dots
            if name in self.inner:
                raise ValueError(f"at: {place!r} given; its θ would have the name of another place, {name}")
            self.inner[name] = hook

    @property
    def transformers(self) -> dict[str, SpatialTransformer]:
        """All transformers by place: ``input``, then the names of submodules with dots replaced by underscores."""
        front = {} if self.transformer is None else {INPUT: self.transformer}
        return front | {name: inner.transformer for name, inner in self.inner.items()}  # pyright: ignore[reportReturnType]

    def predict(self, images: Tensor, second_view: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (B, classes), and θ (B, P) of each transformer by its place, see :attr:`transformers`.

        ``second_view`` are other views of some images, (m, C, H, W), which are not classified. Their θ (m, P) by the
        transformer in front is at the key :data:`SECOND_VIEW`.
        """
        thetas = {}
        if self.transformer is not None and second_view is not None:
            both = self.transformer.theta(torch.cat((images, second_view)))
            thetas[INPUT], thetas[SECOND_VIEW] = both.split((len(images), len(second_view)))
        elif self.transformer is not None:
            thetas[INPUT] = self.transformer.theta(images)
        if self.transformer is not None:
            images = self.transformer.warp(images, thetas[INPUT])
        logits = self.classifier(images)
        for name, inner in self.inner.items():
            thetas[name] = inner.take_theta()  # pyright: ignore[reportCallIssue]
        return logits, thetas

    def forward(
        self, images: Tensor, with_theta: bool = False, second_view: Tensor | None = None
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return logits, or the pair of :meth:`predict` if ``with_theta`` is set.

        DistributedDataParallel supports no other method than ``forward``.
        """
        logits, thetas = self.predict(images, second_view)
        return (logits, thetas) if with_theta else logits


def layers_of(classifier: nn.Module) -> nn.Module:
    """Return the module whose submodules have the names of places: the classifier, or the one that it wraps.

    A classifier that wraps another module says so by an attribute ``wrapped``, the name of that module.
    """
    wrapped = getattr(classifier, "wrapped", None)
    return classifier.get_submodule(wrapped) if isinstance(wrapped, str) else classifier


class RawClassifier(nn.Module):
    """A trained network that accepts raw pixels and normalizes them.

    It maps uint8 images (B, C, H, W) to ``class``, int64 (B,), ``probabilities``, fp32 (B, classes), ``theta`` of the
    transformer in front, and ``theta_<place>`` of each transformer inside. θ is fp32, in the form of
    :meth:`stn.transforms.Transform.readable`: matrices (B, 2, 3) for the affine families.

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
        logits, thetas = self.network.predict((images.float() - self.mean) / self.std)
        probabilities = logits.float().softmax(1)
        outputs = {"class": probabilities.argmax(1), "probabilities": probabilities}
        for place, transformer in self.network.transformers.items():
            name = "theta" if place == INPUT else f"theta_{place}"
            outputs[name] = transformer.transform.readable(thetas[place])
        return outputs


def build_network(settings: NetworkSettings) -> Network:
    """Build a network. Its weights are drawn from torch's global random state.

    With the default transformer the network has 39,884 parameters for images of (3, 32, 32) and 10 classes. For images
    of (1, 28, 28) it is the network of PyTorch's spatial-transformer tutorial, with 27,360 parameters.

    Raises:
        ValueError: the image is too small for the kernels, a module does not accept a setting, or there is no such
            place for a transformer.
    """
    front = settings.transformer
    seen = settings.image_shape if front is None else front.output_shape(settings.image_shape)
    if front is None or not callable(front.localization):
        transformer = None if front is None else build_transformer(settings.image_shape, front)
        classifier = _build_classifier(settings, seen)
    else:  # the localization network may use layers of the classifier
        classifier = _build_classifier(settings, seen)
        transformer = build_transformer(settings.image_shape, front, classifier)
    shapes = input_shapes(layers_of(classifier), seen, *settings.inner) if settings.inner else []
    inner = {
        place: build_transformer(shape, of_place, classifier)
        for (place, of_place), shape in zip(settings.inner.items(), shapes, strict=True)
    }
    return Network(classifier, transformer, inner)


def _build_classifier(settings: NetworkSettings, image_shape: tuple[int, int, int]) -> nn.Module:
    if isinstance(settings.classifier, ClassifierSettings):
        return ConvClassifier(image_shape, settings.classes, settings.dropout, **asdict(settings.classifier))
    return settings.classifier(image_shape, settings.classes, settings.dropout)
