"""Networks of timm as classifiers and as localization networks."""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.networks.localization_head import HeadedLocalization, features_shape
from pipelines.runtime.errors import ExternalError
from pipelines.settings.variants import BackboneLocalizationParams, BackboneParams, WeightsFile
from stn.settings import Normalization

# Arguments of timm.create_model that this package gives itself.
RESERVED = ("num_classes", "in_chans", "pretrained", "features_only", "out_indices", "checkpoint_path")


@dataclass(frozen=True)
class Pretraining:
    """How pretrained weights are used.

    Args:
        normalization: the normalization of the images that the network will get.
        load: whether the weights are loaded. A trained network has its own.
    """

    normalization: Normalization
    load: bool


class Renormalize(nn.Module):
    """Convert images (B, C, H, W) from one normalization to another.

    If the other has a different number of channels, the mean of its channels is used.
    """

    def __init__(self, given: Normalization, wanted: Normalization):
        super().__init__()
        mean, std = torch.tensor(given.mean), torch.tensor(given.std)
        wanted_mean, wanted_std = torch.tensor(wanted.mean), torch.tensor(wanted.std)
        if len(wanted_mean) != len(mean):
            wanted_mean, wanted_std = wanted_mean.mean(), wanted_std.mean()
        self.factor: Tensor
        self.offset: Tensor
        self.register_buffer("factor", (std / wanted_std).view(-1, 1, 1))
        self.register_buffer("offset", ((mean - wanted_mean) / wanted_std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor + self.offset


class Backbone(nn.Module):
    """A network of timm that classifies images (B, heads · C, H, W): logits (B, classes).

    Several crops of an image, stacked as channels by parallel transformers, pass through the same layers; their
    features are concatenated before the last, linear layer. Pretrained weights get images in their own normalization.

    Args:
        layers: the network of timm; it returns features (B, F) if there are several crops, else logits.
        heads: number of crops.
        classes: number of classes.
        renormalize: applied to the images. None: the layers were not pretrained.
    """

    wrapped = "layers"  # see stn.classifiers.layers_of

    def __init__(self, layers: nn.Module, heads: int, classes: int, renormalize: Renormalize | None):
        super().__init__()
        self.renormalize = renormalize
        self.layers = layers
        self.heads = heads
        self.logits = nn.Linear(heads * layers.num_features, classes) if heads > 1 else None  # pyright: ignore[reportOperatorIssue, reportArgumentType]

    def forward(self, images: Tensor) -> Tensor:
        if self.logits is None:
            return self.layers(self._normalized(images))
        crops = images.unflatten(1, (self.heads, -1)).flatten(0, 1)
        features = self.layers(self._normalized(crops))
        return self.logits(features.unflatten(0, (-1, self.heads)).flatten(1))

    def layer_depths(self) -> dict[nn.Parameter, int]:
        """The depth of each parameter by timm's own grouping of layers, see :func:`stn.optimizers.layer_depths`."""
        from timm.models import group_parameters

        matcher = self.layers.group_matcher(coarse=False)  # pyright: ignore[reportCallIssue]
        depths: Any = group_parameters(self.layers, matcher, reverse=True)
        return {parameter: depths[name] for name, parameter in self.layers.named_parameters()}

    def _normalized(self, images: Tensor) -> Tensor:
        return images if self.renormalize is None else self.renormalize(images)


def make_classifier(
    image_shape: tuple[int, int, int],
    classes: int,
    dropout: float,
    *,
    params: BackboneParams,
    heads: int,
    pretraining: Pretraining,
) -> nn.Module:
    """Make a classifier of timm, see :class:`Backbone`.

    Args:
        image_shape: channels, height, width; the channels of all crops.
        dropout: probability, before the last layer.

    Raises:
        ValueError: timm has no such network, or does not accept an option.
        ExternalError: the weights cannot be downloaded.
    """
    options = {"drop_rate": dropout, **params.options} if dropout else params.options
    channels = image_shape[0] // heads
    layers = _create(params, options, pretraining.load, in_chans=channels, num_classes=0 if heads > 1 else classes)
    return Backbone(layers, heads, classes, _renormalize(layers, params, pretraining))


def make_localization(
    image_shape: tuple[int, int, int],
    identity: Sequence[float],
    _classifier: nn.Module | None,
    *,
    params: BackboneLocalizationParams,
    pretraining: Pretraining,
) -> nn.Module:
    """Make a localization network: a network of timm up to a stage, then a head that starts at ``identity``.

    Raises:
        ValueError, ExternalError: as :func:`make_classifier`.
    """
    stage = -1 if params.stage is None else params.stage
    layers = _create(
        params, params.options, pretraining.load,
        in_chans=image_shape[0], features_only=True, out_indices=(stage,),
    )  # fmt: skip
    renormalize = _renormalize(layers, params, pretraining)
    features = LastFeatures(layers, renormalize)
    return HeadedLocalization(features, features_shape(features, image_shape, params.input_size), identity, params)


class LastFeatures(nn.Module):
    """The features (B, C, h, w) of the only stage that a feature extractor of timm returns."""

    def __init__(self, layers: nn.Module, renormalize: Renormalize | None):
        super().__init__()
        self.renormalize = renormalize
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images if self.renormalize is None else self.renormalize(images))[0]


def _create(params: BackboneParams, options: dict[str, Any], load: bool, **arguments: Any) -> nn.Module:
    import timm  # slow; most variants do not need it

    if reserved := [name for name in options if name in RESERVED]:
        raise ValueError(f"options: {reserved[0]} given; the pipeline sets it")
    if params.backbone not in timm.list_models():
        near = difflib.get_close_matches(params.backbone, timm.list_models(), n=3, cutoff=0.5)
        raise ValueError(
            f"backbone: {params.backbone!r} given; timm {timm.__version__} has no such network"
            + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    overlay = {}
    if load and isinstance(params.pretrained, WeightsFile):
        check_weights_file(params.pretrained)
        overlay = {"file": params.pretrained.file}
    try:
        return timm.create_model(
            params.backbone,
            pretrained=load and params.pretrained is not False,
            pretrained_cfg_overlay=overlay,
            **options,
            **arguments,
        )
    except (TypeError, AssertionError, IndexError) as error:
        raise ValueError(f"backbone: {params.backbone!r} given with options {options}: {_first_line(error)}") from None
    except Exception as error:
        if not load or params.pretrained is False:
            raise ValueError(f"backbone: {params.backbone!r} given: {_first_line(error)}") from None
        if isinstance(params.pretrained, WeightsFile):
            raise ValueError(
                f"pretrained.file: {params.pretrained.file} given; {params.backbone} cannot load it: "
                f"{_first_line(error)}"
            ) from None
        raise ExternalError(
            f"pretrained: true given; the weights of {params.backbone} cannot be loaded ({_first_line(error)}). "
            f"Without a network, set pretrained: {{file: weights.safetensors, sha256: ...}}, or copy the Hugging Face "
            f"cache of another machine (HF_HOME)"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _renormalize(layers: nn.Module, params: BackboneParams, pretraining: Pretraining) -> Renormalize | None:
    if params.pretrained is False:
        return None
    import timm

    config = timm.get_pretrained_cfg(params.backbone)
    assert config is not None, params.backbone
    return Renormalize(pretraining.normalization, Normalization(config.mean, config.std))


def check_weights_file(weights: WeightsFile) -> None:
    """Check that a file of weights exists, has a format that needs no pickle, and has the given SHA-256.

    Raises:
        ValueError: it is not so.
    """
    path = Path(weights.file)
    if not path.is_file():
        raise ValueError(f"pretrained.file: {weights.file} given; there is no such file")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != weights.sha256:
        raise ValueError(f"pretrained.sha256: {weights.sha256} given; {weights.file} has {found}")
