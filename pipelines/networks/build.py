"""Build networks from a variant's settings."""

import torch

from pipelines.runtime.errors import UserError
from pipelines.settings.variants import TransformerParams, VariantParams, variant_file
from stn.classifiers import Network, build_network
from stn.settings import ClassifierSettings, LocalizationSettings, NetworkSettings, TransformerSettings


def network_settings(
    variant: VariantParams, image_shape: tuple[int, int, int], classes: int, dropout: float = 0.0
) -> NetworkSettings:
    """Convert a variant's settings to those of :func:`stn.classifiers.build_network`.

    Args:
        image_shape: channels, height, width.
        classes: number of classes.
        dropout: probability, in the classifier.
    """
    transformer = None if variant.transformer is None else _transformer_settings(variant.transformer)
    classifier = ClassifierSettings(**variant.classifier.model_dump())
    return NetworkSettings(image_shape, classes, transformer, classifier, dropout)


def _transformer_settings(params: TransformerParams) -> TransformerSettings:
    """Convert the settings of a transformer; a single transform or hidden layer becomes a sequence of one."""
    transform, hidden = params.transform, params.localization.hidden
    localization = LocalizationSettings(
        **params.localization.model_dump(exclude={"hidden"}), hidden=[hidden] if isinstance(hidden, int) else hidden
    )
    return TransformerSettings(
        **params.model_dump(exclude={"transform", "localization"}),
        transform=(transform,) if isinstance(transform, str) else tuple(transform),
        localization=localization,
    )


def build_without_memory(settings: NetworkSettings) -> Network:
    """Build a network on torch's meta device: it has shapes, but no weights.

    Raises:
        ValueError: the images are too small for the kernels, or a setting is not allowed.
    """
    with torch.device("meta"):
        return build_network(settings)


def count_parameters(settings: NetworkSettings) -> int:
    """The number of parameters of a network, transformer and classifier.

    Raises:
        ValueError: as :func:`build_without_memory`.
    """
    return sum(parameter.numel() for parameter in build_without_memory(settings).parameters())


def check_size(name: str, variant: VariantParams, image_shape: tuple[int, int, int]) -> None:
    """Check that images of shape (C, H, W) are large enough for a variant's network.

    Raises:
        UserError: a kernel is larger than the image.
    """
    try:
        build_without_memory(network_settings(variant, image_shape, classes=2))
    except ValueError as error:
        raise UserError(f"{variant_file(name)}: {error}") from None
