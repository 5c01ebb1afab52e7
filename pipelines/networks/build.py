"""Build networks from a variant's settings."""

from functools import partial

import torch
from torch import nn

from pipelines.networks.backbones import Pretraining, make_classifier, make_localization
from pipelines.networks.own_networks import make_own_network
from pipelines.networks.shared_layers import share_layers
from pipelines.runtime.errors import UserError
from pipelines.settings.image_form import height_and_width
from pipelines.settings.variants import (
    BackboneLocalizationParams,
    BackboneParams,
    ClassifierParams,
    LocalizationParams,
    OwnNetworkParams,
    SharedLocalizationParams,
    TransformerParams,
    VariantParams,
    variant_file,
)
from stn.classifiers import Network, build_network
from stn.settings import (
    ClassifierSettings,
    LocalizationSettings,
    MakeClassifier,
    MakeLocalization,
    NetworkSettings,
    Normalization,
    TransformerSettings,
)

NOT_LOADED = Pretraining(Normalization((0.5,), (0.5,)), load=False)


def network_settings(
    variant: VariantParams,
    image_shape: tuple[int, int, int],
    classes: int,
    dropout: float = 0.0,
    pretraining: Pretraining = NOT_LOADED,
) -> NetworkSettings:
    """Convert a variant's settings to those of :func:`stn.classifiers.build_network`.

    Args:
        image_shape: channels, height, width.
        classes: number of classes.
        dropout: probability, in the classifier.
        pretraining: how pretrained weights are used.
    """
    front = variant.front
    return NetworkSettings(
        image_shape,
        classes,
        None if front is None else _transformer_settings(front, pretraining),
        _classifier(variant.classifier, 1 if front is None else front.parallel, pretraining),
        dropout,
        {place: _transformer_settings(inner, pretraining) for place, inner in variant.inner.items()},
    )


def _classifier(params: ClassifierParams, heads: int, pretraining: Pretraining) -> ClassifierSettings | MakeClassifier:
    if isinstance(params, BackboneParams):
        return partial(make_classifier, params=params, heads=heads, pretraining=pretraining)
    if isinstance(params, OwnNetworkParams):
        return partial(make_own_network, params=params)
    return ClassifierSettings(**params.model_dump())


def _transformer_settings(params: TransformerParams, pretraining: Pretraining) -> TransformerSettings:
    """Convert the settings of a transformer; a single transform becomes a sequence of one."""
    transform, size = params.transform, params.output_size
    return TransformerSettings(
        **params.model_dump(exclude={"at", "transform", "output_size", "localization"}),
        transform=(transform,) if isinstance(transform, str) else tuple(transform),
        output_size=None if size is None else height_and_width(size),
        localization=_localization(params.localization, pretraining),
    )


def _localization(params: LocalizationParams, pretraining: Pretraining) -> LocalizationSettings | MakeLocalization:
    if isinstance(params, BackboneLocalizationParams):
        return partial(make_localization, params=params, pretraining=pretraining)
    if isinstance(params, SharedLocalizationParams):
        return partial(share_layers, params=params)
    hidden, size = params.hidden, params.input_size
    return LocalizationSettings(
        **params.model_dump(exclude={"hidden", "input_size"}),
        hidden=[hidden] if isinstance(hidden, int) else hidden,
        input_size=None if size is None else height_and_width(size),
    )


def build_without_memory(settings: NetworkSettings) -> Network:
    """Build a network on torch's meta device: it has shapes, but no weights.

    Raises:
        ValueError: the images are too small for the kernels, or a setting is not allowed.
    """
    with torch.device("meta"):
        return build_network(settings)


def count_parameters(settings: NetworkSettings) -> int:
    """The number of parameters of a network, transformers and classifier.

    Raises:
        ValueError: as :func:`build_without_memory`.
    """
    return sum(parameter.numel() for parameter in build_without_memory(settings).parameters())


def check_network(name: str, variant: VariantParams, image_shape: tuple[int, int, int], classes: int) -> Network:
    """Check that a variant's network can be built and run for images of shape (C, H, W); returns it without weights.

    Raises:
        UserError: a setting is not allowed, or the images do not fit the network.
    """
    try:
        settings = network_settings(variant, image_shape, classes)
        network = build_without_memory(settings)
        if is_built_in(settings):
            return network
        with torch.no_grad():
            logits = network.eval()(torch.empty(2, *image_shape, device="meta"))
    except (ValueError, RuntimeError) as error:  # torch says what does not fit by a RuntimeError
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{variant_file(name)}: {reason}") from None
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"{variant_file(name)}: the classifier returns {shape} for 2 images of {classes} classes, "
            f"not logits (2, {classes})"
        )
    return network


def is_built_in(settings: NetworkSettings) -> bool:
    """Whether all parts of a network are of :mod:`stn`. What does not fit is then found when the network is built.

    Running the others on the meta device takes more than a second, because torch then imports ``torch._dynamo``.
    """
    front = settings.transformer
    localizations = () if front is None else (front.localization,)
    parts = (settings.classifier, *localizations)
    return not settings.inner and not any(callable(part) for part in parts)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a network normalizes by the statistics of a batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
