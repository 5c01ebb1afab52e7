"""Localization networks that share the classifier's early layers."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from pipelines.networks.backbones import Backbone
from pipelines.networks.localization_head import HeadedLocalization, features_shape
from pipelines.settings.variants import SharedLocalizationParams
from stn.classifiers import layers_of
from stn.insertion import find_submodule


class SharedLayers(nn.Module):
    """The classifier's own layers up to a submodule: images (B, C, H, W) → features (B, C', h, w).

    The layers are no submodules of this module. Their weights belong to the classifier alone, so they are stored and
    updated once.

    Args:
        classifier: the classifier.
        trunk: its layers up to the submodule; it shares their weights.
    """

    def __init__(self, classifier: nn.Module, trunk: nn.Module):
        super().__init__()
        self._shared = [trunk]  # in a list, where torch does not see it
        self._renormalize = [classifier.renormalize if isinstance(classifier, Backbone) else None]

    def train(self, mode: bool = True) -> "SharedLayers":
        """Set the mode of the shared layers too: a traced trunk has a graph for each mode."""
        self._shared[0].train(mode)
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        (trunk,), (renormalize,) = self._shared, self._renormalize
        # torch.fx puts a copy of a traced module into training mode.
        if any(module.training != self.training for module in trunk.modules()):
            trunk.train(self.training)
        return trunk(images if renormalize is None else renormalize(images))


def share_layers(
    image_shape: tuple[int, int, int],
    identity: Sequence[float],
    classifier: nn.Module | None,
    *,
    params: SharedLocalizationParams,
) -> nn.Module:
    """Make a localization network of the classifier's layers up to the submodule ``params.shares``, and a head.

    Finnveden, Jansson and Lindeberg, "Understanding when spatial transformer networks do not support invariance, and
    what to do about it" (2020), section 4: a localization network that shares layers trains more stably than a deep one
    of its own.

    Raises:
        ValueError: there is no such submodule, or torch.fx cannot trace the classifier.
    """
    assert classifier is not None
    try:
        trunk = _layers_until(layers_of(classifier), params.shares)
    except ValueError as error:
        raise ValueError(str(error).replace("at:", "localization.shares:", 1)) from None
    shape = features_shape(trunk, image_shape, params.input_size)
    return HeadedLocalization(SharedLayers(classifier, trunk), shape, identity, params)


def _layers_until(layers: nn.Module, place: str) -> nn.Module:
    find_submodule(layers, place)
    if isinstance(layers, nn.Sequential) and "." not in place:
        names = [name for name, _ in layers.named_children()]
        children = list(layers.named_children())[: names.index(place) + 1]
        return nn.Sequential(OrderedDict(children))
    from timm.models import create_feature_extractor

    try:
        extractor = create_feature_extractor(layers, [place])
    except Exception as error:  # torch.fx raises exceptions of many types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"at: {place!r} given; torch.fx cannot trace the classifier up to there: {reason[:200]}"
        ) from None
    return _OnlyValue(extractor)


class _OnlyValue(nn.Module):
    """The value of a module that returns a dictionary with one entry."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        (value,) = self.module(images).values()
        return value
