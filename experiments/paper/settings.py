"""The experiment's settings, params.yaml, and the names that they may contain."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.settings.params import Count, RecipeParams, Seed
from pipelines.settings.variants import LearningRateFactor
from pipelines.settings.yaml_file import Section, load_settings

FOLDER = Path("experiments/paper")
ADDITION = "addition"
COLOCALIZATION = "colocalization"
LONG = "long"
Schedule = Literal["short", "long"]
Distortion = Literal["R", "RTS", "P", "E", "TC"]
Bound = Annotated[float, Field(gt=0, le=10)]
Network = Literal[
    "FCN", "CNN", "ST-FCN-affine", "ST-FCN-projective", "ST-FCN-tps", "2xST-FCN-affine", "2xST-FCN-projective",
    "2xST-FCN-tps", "ST-CNN-affine", "ST-CNN-projective", "ST-CNN-tps",
]  # fmt: skip


class PrepareParams(Section):
    source: str = Field(min_length=1)
    validation: float = Field(gt=0, lt=1)
    seed: Seed


class ParametersParams(Section):
    FCN: Count
    CNN: Count


class TrainParams(RecipeParams):
    parameters: ParametersParams
    localization_lr: LearningRateFactor
    bound: Bound | None


class OverrideParams(Section):
    """Settings of one task that replace those of the section ``train``; omitted settings are not replaced."""

    epochs: Count | None = None
    lr: float | None = Field(default=None, gt=0, le=10)
    localization_lr: LearningRateFactor | None = None
    bound: Bound | None = None  # null: no bound, also if the section train has one
    distortion_ramp: Count | None = None

    @model_validator(mode="after")
    def _numbers_are_not_null(self):
        for name in ("epochs", "lr", "localization_lr", "distortion_ramp"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name}: null given; give a number, or omit it to use the setting of train")
        return self


class OverridesParams(Section):
    R: OverrideParams
    RTS: OverrideParams
    P: OverrideParams
    E: OverrideParams
    TC: OverrideParams
    addition: OverrideParams


class LongParams(Section):
    """The paper's own schedule: settings that replace those of the section ``train`` and of the tasks."""

    epochs: Count
    batch_size: Count
    optimizer: Literal["sgd"]
    schedule: Literal["thirds"]
    lr: float = Field(gt=0, le=10)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1)
    max_grad_norm: float = Field(gt=0)
    precision: Literal["auto", "fp32", "bf16"]
    localization_lr: LearningRateFactor
    bound: Bound | None


class ColocalizationParams(Section):
    images: int = Field(ge=2, le=1000)
    clutter: int = Field(ge=0, le=1000)
    encoder_epochs: Count
    encoder_lr: float = Field(gt=0, le=10)
    starts: Count
    steps: Count
    lr: float = Field(gt=0, le=10)
    margin: float = Field(gt=0)
    noise: float = Field(ge=0)
    ramp: float = Field(gt=0, le=1)
    seed: Seed


class Params(Section):
    distortions: list[Distortion] = Field(min_length=1)
    networks: list[Network] = Field(min_length=1)
    addition: list[Network]
    seeds: list[Seed] = Field(min_length=1)
    digits: list[Annotated[int, Field(ge=0, le=9)]] = Field(min_length=1)
    prepare: PrepareParams
    train: TrainParams
    overrides: OverridesParams
    long: LongParams
    colocalization: ColocalizationParams

    @model_validator(mode="after")
    def _a_growing_distortion_reaches_its_size(self):
        for task in OverridesParams.model_fields:
            train = self.train_of(task, "short")
            if train.distortion_ramp >= train.epochs:
                raise ValueError(
                    f"distortion_ramp: {train.distortion_ramp} given for {task}; less than its {train.epochs} epochs "
                    "is allowed, or no epoch has the whole distortion"
                )
        return self

    def train_of(self, task: str, schedule: Schedule) -> TrainParams:
        """The section ``train`` with the overrides of a task (a distortion or ``addition``), or with ``long``."""
        section = self.long if schedule == LONG else getattr(self.overrides, task)
        return self.train.model_copy(update=section.model_dump(exclude_unset=True))


def load_params() -> Params:
    """Read and check the experiment's params.yaml.

    Raises:
        UserError: one line for each mistake.
    """
    return load_settings(FOLDER / "params.yaml", Params)
