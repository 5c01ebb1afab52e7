"""The settings of the section train that decide how one network is trained.

Imports neither torch nor Ray, so mistakes are reported at once.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipelines.settings.variants import AlignmentWeight
from pipelines.settings.workers import Count
from pipelines.settings.yaml_file import Section


class AlignmentParams(Section):
    """The term of the training objective for motions that θ undoes."""

    weight: Annotated[AlignmentWeight, BeforeValidator(lambda value: 0.0 if value is None else value)] = 0.0
    to: Literal["upright", "itself"] = "itself"
    warmup: float = Field(default=0.0, ge=0, le=1)


class RecipeParams(Section):
    """The training recipe of one network, shared by trainings, trials and finals."""

    epochs: Count
    batch_size: Count
    optimizer: Literal["muon", "sgd", "adamw"]
    schedule: Literal["one_cycle", "thirds"] = "one_cycle"
    lr: float = Field(gt=0, le=10)
    warmup: float = Field(ge=0, lt=1)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    decay_norms: bool = True
    max_grad_norm: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    sampler: Literal["uniform", "balanced"] = "uniform"
    flip: bool
    vertical_flip: bool = False
    shift: int = Field(ge=0, le=64)
    crop: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0, 1.0], min_length=2, max_length=2)
    color_jitter: float = Field(default=0.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0, le=100)
    distortion_ramp: int = Field(default=0, ge=0, le=10**9)
    ema: float = Field(default=0.0, ge=0, lt=1)
    alignment: AlignmentParams = AlignmentParams()
    precision: Literal["auto", "fp32", "bf16"]
    capture: Literal["auto", "on", "off"] = "auto"

    @model_validator(mode="after")
    def _crop_is_a_range(self):
        if self.crop[0] > self.crop[1]:
            raise ValueError(f"crop: {self.crop} given; the smaller share comes first")
        return self

    @model_validator(mode="after")
    def _rare_classes_are_raised_once(self):
        if self.class_weights == self.sampler == "balanced":
            raise ValueError(
                "class_weights: balanced given with sampler: balanced; each alone makes up for the classes' numbers of "
                "images; set class_weights: none or sampler: uniform"
            )
        return self

    @model_validator(mode="after")
    def _images_to_align_are_not_mixed(self):
        if self.alignment.weight and self.mixup:
            raise ValueError(
                f"alignment.weight: {self.alignment.weight} given with mixup: {self.mixup}; θ of a mixture has no "
                "motion; set one of them to 0"
            )
        return self
