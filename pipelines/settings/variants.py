"""The settings of variants/*.yaml; each file describes a network to be trained and compared.

Imports neither torch nor Ray, so mistakes are reported at once.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

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


class LocalizationParams(ConvolutionParams):
    """The localization network: convolutions, then fully connected layers."""

    hidden: Annotated[Annotated[Hidden, Tag("one")] | Annotated[list[Hidden], Tag("list")], _one_or_list]
    activation: Activation = "relu"
    downsample: Downsample = 1


class ClassifierParams(ConvolutionParams):
    """The classifier: convolutions, then fully connected layers."""

    channels: list[Channels] = Field(default=[10, 20])
    kernel_sizes: list[KernelSize] = Field(default=[5, 5])
    hidden: list[Hidden] = Field(default=[50])


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
    output_size: int | None = Field(default=None, ge=4, le=1024)
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


class Origin(Section):
    """The study and the trial that a variant comes from; ``trial`` is None if the baseline network won."""

    study: str
    trial: int | None


class VariantParams(Section):
    """One network to be trained, and the parts of the recipe that belong to it."""

    transformer: TransformerParams | None
    classifier: ClassifierParams = ClassifierParams()
    localization_lr: LearningRateFactor = 1.0
    localization_weight_decay: WeightDecay | None = None
    theta_penalty: ThetaPenalty = 0.0
    origin: Origin | None = None  # written by the stage tune


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
