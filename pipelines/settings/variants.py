"""The settings of variants/*.yaml; each file describes a network to be trained and compared.

Imports neither torch nor Ray, so mistakes are reported at once.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from pipelines.runtime.errors import UserError
from pipelines.settings.yaml_file import Section, load_settings

PaddingMode = Literal["zeros", "border", "reflection"]
Transform = Literal["affine", "similarity", "attention", "projective", "tps"]
Activation = Literal["relu", "leaky_relu", "gelu", "tanh"]
Channels = Annotated[int, Field(ge=1, le=1024)]
KernelSize = Annotated[int, Field(ge=1, le=31)]
Hidden = Annotated[int, Field(ge=1, le=65536)]
Downsample = Annotated[int, Field(ge=1, le=16)]
LearningRateFactor = Annotated[float, Field(gt=0, le=10)]
WeightDecay = Annotated[float, Field(ge=0, le=1)]
ThetaPenalty = Annotated[float, Field(ge=0, le=1000)]
AlignmentWeight = Annotated[float, Field(ge=0, le=1000)]
Pixels = Annotated[int, Field(ge=4, le=4096)]
Size = Annotated[
    Annotated[Pixels, Tag("one")] | Annotated[list[Pixels], Field(min_length=2, max_length=2), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "one"),
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
INPUT = "input"  # the place in front of the classifier
# The variant that the stage tune writes; there is no file before the first study.
TUNED = "tuned"
# The variant with the localization network of PyTorch's tutorial: the baseline of tuning.
BASELINE = "stn"
FORMER_BASELINE = "seed"  # its name until commit 835a76f


class ConvolutionParams(Section):
    """A stack of convolutions."""

    channels: list[Channels]  # empty: a fully connected network
    kernel_sizes: list[KernelSize]

    @model_validator(mode="after")
    def _one_kernel_for_each_layer(self):
        if len(self.channels) != len(self.kernel_sizes):
            raise ValueError(
                f"kernel_sizes: {self.kernel_sizes} given for channels {self.channels}; one for each layer"
            )
        return self


# Discriminate by type, so that only one union member reports an error.
_one_or_list = Discriminator(lambda value: "list" if isinstance(value, list) else "one")


class WeightsFile(Section):
    """Weights of another task in a file, and the SHA-256 of the file."""

    file: str = Field(min_length=1)
    sha256: Sha256


# Weights by timm (true), none (false), or a file.
Pretrained = Annotated[
    Annotated[bool, Tag("by_timm")] | Annotated[WeightsFile, Tag("of_file")],
    Discriminator(lambda value: "of_file" if isinstance(value, dict | WeightsFile) else "by_timm"),
]


class BackboneParams(Section):
    """A network of timm."""

    backbone: str = Field(min_length=1)
    pretrained: Pretrained = False
    options: dict[str, Any] = Field(default={})  # arguments of timm.create_model


class OwnNetworkParams(Section):
    """A network of your own: ``package.file:function``, called with the image shape and the number of classes."""

    module: str = Field(pattern=r"^own_networks(\.[A-Za-z_]\w*)+:[A-Za-z_]\w*$")
    options: dict[str, Any] = Field(default={})


class ConvolutionalLocalizationParams(ConvolutionParams):
    """The localization network: convolutions, then fully connected layers."""

    hidden: Annotated[Annotated[Hidden, Tag("one")] | Annotated[list[Hidden], Tag("list")], _one_or_list]
    activation: Activation = "relu"
    downsample: Downsample = 1
    input_size: Size | None = None


class LocalizationHeadParams(Section):
    """The layers behind features: a 1×1 convolution, an average pool to ``pool`` × ``pool``, fully connected layers."""

    channels: Channels = 32
    pool: int = Field(default=4, ge=1, le=64)
    hidden: list[Hidden] = Field(default=[64])
    activation: Activation = "relu"
    input_size: Size | None = None


class BackboneLocalizationParams(BackboneParams, LocalizationHeadParams):
    """The localization network: a network of timm up to one of its stages, then a head."""

    stage: int | None = Field(default=None, ge=0, le=16)  # None: the last


class SharedLocalizationParams(LocalizationHeadParams):
    """The localization network: the classifier's own layers up to the submodule ``shares``, then a head."""

    shares: str = Field(min_length=1)


def _kind(value: Any) -> str:
    """Discriminate networks by the setting that names their kind, so that only one union member reports an error."""
    for name, kind in (("backbone", "timm"), ("module", "own"), ("shares", "shared")):
        if name in value if isinstance(value, dict) else hasattr(value, name):
            return kind
    return "convolutional"


LocalizationParams = Annotated[
    Annotated[ConvolutionalLocalizationParams, Tag("convolutional")]
    | Annotated[BackboneLocalizationParams, Tag("timm")]
    | Annotated[SharedLocalizationParams, Tag("shared")],
    Discriminator(_kind),
]


class ConvClassifierParams(ConvolutionParams):
    """The classifier: convolutions, then fully connected layers."""

    channels: list[Channels] = Field(default=[10, 20])
    kernel_sizes: list[KernelSize] = Field(default=[5, 5])
    hidden: list[Hidden] = Field(default=[50])


ClassifierParams = Annotated[
    Annotated[ConvClassifierParams, Tag("convolutional")]
    | Annotated[BackboneParams, Tag("timm")]
    | Annotated[OwnNetworkParams, Tag("own")],
    Discriminator(_kind),
]


TransformOrSeries = Annotated[
    Annotated[Transform, Tag("one")] | Annotated[list[Transform], Field(min_length=1), Tag("list")], _one_or_list
]


class TransformerParams(Section):
    """The spatial transformer: its transform or series of transforms, sampling and localization network."""

    transform: TransformOrSeries = "affine"
    parallel: int = Field(default=1, ge=1, le=16)
    scale: float | None = Field(default=None, gt=0, le=1)
    control_points: int | None = Field(default=None, ge=2, le=16)
    bound: float | None = Field(default=None, gt=0, le=10)
    output_size: Size | None = None
    antialias: int = Field(default=1, ge=1, le=8)
    padding_mode: PaddingMode
    localization: LocalizationParams

    @model_validator(mode="after")
    def _each_setting_belongs_to_a_transform(self):
        families = [self.transform] if isinstance(self.transform, str) else self.transform
        for name, family in (("scale", "attention"), ("control_points", "tps")):
            if getattr(self, name) is not None and family not in families:
                raise ValueError(f"{name}: {getattr(self, name)} given; only {family} has it, not {self.transform}")
        if self.parallel > 1 and len(families) > 1:
            raise ValueError(f"parallel: {self.parallel} given with the series {families}; set only one of them")
        return self


class PlacedTransformerParams(TransformerParams):
    """A spatial transformer and its place: in front of the classifier, or before one of its submodules."""

    at: str = Field(default=INPUT, min_length=1)


class Origin(Section):
    """The study and the trial that a variant comes from; ``trial`` is None if the baseline network won."""

    study: str
    trial: int | None


class VariantParams(Section):
    """One network to be trained, and the parts of the recipe that belong to it."""

    transformer: TransformerParams | None = None  # in front of the classifier
    transformers: list[PlacedTransformerParams] = Field(default=[])
    classifier: ClassifierParams = ConvClassifierParams()
    localization_lr: LearningRateFactor = 1.0
    localization_weight_decay: WeightDecay | None = None
    theta_penalty: ThetaPenalty = 0.0
    alignment_weight: AlignmentWeight | None = None  # None: train.alignment.weight
    origin: Origin | None = None  # written by the stage tune

    @model_validator(mode="before")
    @classmethod
    def _names_its_transformers(cls, values):
        if isinstance(values, dict) and not {"transformer", "transformers"} & values.keys():
            raise ValueError("transformer: missing; null means a network without a transformer")
        return values

    @model_validator(mode="after")
    def _each_transformer_has_a_place_of_its_own(self):
        places = [transformer.at for transformer in self.transformers] + [INPUT] * (self.transformer is not None)
        for place in places:
            if places.count(place) > 1:
                raise ValueError(
                    f"transformers: {places.count(place)} given at {place!r}; one at each place, "
                    "which may be a series (transform: [similarity, affine])"
                )
        return self

    @model_validator(mode="after")
    def _inner_transformers_see_features(self):
        for place, inner in self.inner.items():
            if isinstance(inner.localization, SharedLocalizationParams):
                raise ValueError(f"transformers: shares given at {place!r}; only a transformer at {INPUT!r} can share")
            if isinstance(inner.localization, BackboneLocalizationParams) and inner.localization.pretrained:
                raise ValueError(f"transformers: pretrained given at {place!r}; weights for images fit {INPUT!r} only")
        crops = 1 if self.front is None else self.front.parallel
        if self.inner and crops > 1 and isinstance(self.classifier, BackboneParams):
            raise ValueError(
                f"transformers: parallel: {crops} given at {INPUT!r} and a transformer at {next(iter(self.inner))!r}; "
                "each crop would have its own θ there; set only one of them"
            )
        return self

    @property
    def front(self) -> TransformerParams | None:
        """The transformer in front of the classifier."""
        return next((placed for placed in self.transformers if placed.at == INPUT), self.transformer)

    @property
    def all_transformers(self) -> dict[str, TransformerParams]:
        """All transformers by place."""
        front = self.front
        return ({} if front is None else {INPUT: front}) | self.inner

    @property
    def inner(self) -> dict[str, TransformerParams]:
        """The transformers before submodules of the classifier, by the dotted name of the submodule."""
        return {placed.at: placed for placed in self.transformers if placed.at != INPUT}


def variant_file(name: str) -> Path:
    """Path of the variant's settings."""
    return Path("variants") / f"{name}.yaml"


def load_variant(name: str) -> VariantParams:
    """Read and check ``variants/<name>.yaml``.

    Raises:
        UserError: there is no such file, or one line for each mistake in it, three at most.
    """
    path = variant_file(name)
    if name == TUNED and not path.exists():
        raise UserError(f"{path}: not written yet; run: dvc repro tune")
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        where = f" (in {Path.cwd()})" if "DVC_ROOT" in os.environ else ""
        if name == FORMER_BASELINE:
            raise UserError(f"variants: {name!r} given{where}; this variant is now named {BASELINE}")
        raise UserError(
            f"variants: {name!r} given, but there is no {path}{where}; there are: {known}. "
            f"git must know a new file (git add {path}), else dvc exp run --temp and --queue do not see it"
        )
    return load_settings(path, VariantParams)
