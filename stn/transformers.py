"""Build spatial transformers from their settings."""

from dataclasses import asdict
from typing import Any

from torch import nn

from stn.composition import Parallel, Series
from stn.localization import Localization
from stn.settings import LocalizationSettings, TransformerSettings
from stn.spatial_transformer import SpatialTransformer
from stn.transforms import TRANSFORMS, Transform


def build_transformer(
    image_shape: tuple[int, int, int], settings: TransformerSettings, classifier: nn.Module | None = None
) -> SpatialTransformer:
    """Build a spatial transformer, or a series of them, for images or features of ``image_shape`` (C, H, W).

    Args:
        classifier: passed to ``settings.localization`` if that is a function.

    Raises:
        ValueError: the image is too small for the kernels, or a module does not accept a setting.
    """
    for name, family in (("scale", "attention"), ("control_points", "tps")):
        if (value := getattr(settings, name)) is not None and family not in settings.transform:
            raise ValueError(f"{name}: {value} given; only {family} has it, not {', '.join(settings.transform)}")
    _, height, width = image_shape
    transforms = [_build_transform(name, settings, width / height) for name in settings.transform]
    if settings.parallel > 1:
        if len(transforms) > 1:
            names = list(settings.transform)
            raise ValueError(
                f"parallel: {settings.parallel} given, but transform: {names} is a series; set only one of them"
            )
        transforms = [Parallel(transforms[0], settings.parallel)]
    localizations = [_build_localization(image_shape, settings, transform, classifier) for transform in transforms]
    options: dict[str, Any] = {
        "padding_mode": settings.padding_mode, "antialias": settings.antialias, "output_size": settings.output_size,
    }  # fmt: skip
    if len(transforms) > 1:
        return Series(localizations, transforms, **options)
    return SpatialTransformer(localizations[0], transform=transforms[0], **options)


def _build_localization(
    image_shape: tuple[int, int, int], settings: TransformerSettings, transform: Transform, classifier: nn.Module | None
) -> nn.Module:
    if isinstance(settings.localization, LocalizationSettings):
        return Localization(image_shape, transform.identity, **asdict(settings.localization))
    return settings.localization(image_shape, transform.identity, classifier)


def _build_transform(name: str, settings: TransformerSettings, aspect: float) -> Transform:
    if name not in TRANSFORMS:
        raise ValueError(f"transform: {name!r} is not one of {', '.join(TRANSFORMS)}")
    options: dict[str, Any] = {"bound": settings.bound}
    if name == "similarity":
        options["aspect"] = aspect
    if name == "attention":
        options["scale"] = settings.scale
    if name == "tps" and settings.control_points is not None:
        options["control_points"] = settings.control_points
    return TRANSFORMS[name](**options)
