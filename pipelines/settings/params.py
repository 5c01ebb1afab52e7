"""The settings of params.yaml: one class per section, with the allowed values.

Imports neither torch nor Ray, so mistakes are reported at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from ruamel.yaml import YAML

from pipelines.runtime.errors import UserError
from pipelines.settings.data_params import DataParams, Name, PrepareParams, Seed
from pipelines.settings.metric import Metric
from pipelines.settings.nulls import replace_nulls
from pipelines.settings.ranges import FloatDomain, IntDomain, each
from pipelines.settings.recipe import RecipeParams
from pipelines.settings.train_presets import OF_EVERY_PRESET, PRESETS
from pipelines.settings.variants import (
    BASELINE,
    FORMER_BASELINE,
    TUNED,
    Activation,
    AlignmentWeight,
    Channels,
    Downsample,
    Hidden,
    KernelSize,
    LearningRateFactor,
    PaddingMode,
    ThetaPenalty,
    Transform,
    WeightDecay,
    load_variant,
    variant_file,
)
from pipelines.settings.workers import Count, WorkerCount
from pipelines.settings.yaml_file import Section, check_settings, read_yaml

PARAMS_FILE = Path("params.yaml")
NoGate = Literal["none"]
Share = Annotated[float, Field(ge=0, le=1)]


class SearchSpaceParams(Section):
    """The domain of each setting that a trial draws."""

    transform: list[Transform] = Field(min_length=1)
    padding_mode: list[PaddingMode] = Field(min_length=1)
    downsample: Annotated[IntDomain, each(Downsample)]
    layers: Annotated[IntDomain, each(Annotated[int, Field(ge=1, le=4)])]
    channels: Annotated[IntDomain, each(Channels)]
    kernel_size: Annotated[IntDomain, each(KernelSize)]
    hidden: Annotated[IntDomain, each(Hidden)]
    activation: list[Activation] = Field(min_length=1)
    localization_lr: Annotated[FloatDomain, each(Annotated[LearningRateFactor, Field(ge=1e-6)])]
    localization_weight_decay: Annotated[FloatDomain, each(WeightDecay)]
    theta_penalty: Annotated[FloatDomain, each(ThetaPenalty)]
    # Not drawn if they are empty.
    at: list[str]
    backbone: list[str]
    alignment_weight: list[AlignmentWeight]


class TuneParams(Section):
    """The study: trials, their training, finalists and the search space."""

    trials: int = Field(ge=0, le=100_000)
    epochs: Count
    seed: Seed
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "hyperband", "none"]
    max_parameters: Literal["stn", "none"] | Count
    gpus_per_trial: float = Field(gt=0, le=1)
    trials_at_once: Count = 1
    finalists: int = Field(ge=1, le=100)
    final_seeds: list[Seed] = Field(min_length=1)
    search_space: SearchSpaceParams

    @model_validator(mode="before")
    @classmethod
    def _refuse_the_baselines_former_name(cls, values):
        if isinstance(values, dict) and values.get("max_parameters") == FORMER_BASELINE:
            raise ValueError(f"max_parameters: '{FORMER_BASELINE}' given; this variant is now named {BASELINE}")
        return values

    @model_validator(mode="after")
    def _a_worker_has_one_gpu(self):
        if self.trials_at_once > (most := int(1 / self.gpus_per_trial + 1e-9)):
            raise ValueError(
                f"trials_at_once: {self.trials_at_once} given; at most {most} trials fit on the GPU of a process, each "
                f"with gpus_per_trial: {self.gpus_per_trial}"
            )
        return self

    @model_validator(mode="after")
    def _seeds_differ(self):
        if len({self.seed, *self.final_seeds}) <= len(self.final_seeds):
            raise ValueError(f"final_seeds: {self.final_seeds} given; all must differ, and from tune.seed: {self.seed}")
        return self


class TrainParams(RecipeParams):
    """The recipe, with the training seeds, the workers, and the preset that has filled in nulls of the recipe."""

    seeds: list[Seed] = Field(min_length=1)
    final_fit: bool
    workers: WorkerCount
    threads: Literal["auto"] | Count
    max_failures: int = Field(ge=0, le=10**9)
    seeds_at_once: Count = 1
    residency: Literal["auto", "device", "host"] = "auto"
    preset: Literal["none", "small", "from_scratch", "finetune"] = "small"

    @model_validator(mode="before")
    @classmethod
    def _a_null_needs_a_preset(cls, values):
        for name in OF_EVERY_PRESET:
            if isinstance(values, dict) and values.get("preset") == "none" and values.get(name, 0) is None:
                choices = ", ".join(PRESETS)
                raise ValueError(f"{name}: null given with preset: none; set it, or one of the presets {choices}")
        return values

    @model_validator(mode="after")
    def _seeds_differ(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} given; each seed may be listed once")
        return self


class EvaluateParams(Section):
    """The metric that selects, and batch size, bootstrap and robustness measurement of the evaluation."""

    metric: Annotated[Metric, Field(strict=False)] = Metric.ACCURACY
    batch_size: Count
    resamples: int = Field(ge=100, le=1_000_000)
    confidence: float = Field(gt=0, lt=1)
    robustness_images: Count


class VisualizeParams(Section):
    """The size of the pictures."""

    examples: int = Field(ge=1, le=256)


class RegisterParams(Section):
    """The user's own tags of registered versions."""

    tags: dict[Name, str]


class PromoteParams(Section):
    """The gates of a promotion."""

    minimum_accuracy: NoGate | Share
    margin: NoGate | Share
    level: NoGate | Share
    class_level: NoGate | Share
    rotation_margin: NoGate | Share
    minimum_alignment: NoGate | Share
    maximum_outside: NoGate | Share
    max_parameters: NoGate | Count
    variants: Literal["any"] | Annotated[list[Name], Field(min_length=1)]


class CleanParams(Section):
    """The number of checkpoints and trainings that cleaning keeps."""

    checkpoints: int = Field(ge=1, le=10**6)
    experiments: int = Field(ge=0, le=10**6)
    superseded: int = Field(ge=0, le=10**6)


class Params(Section):
    """All settings of params.yaml."""

    variants: list[Name] = Field(min_length=1)
    data: DataParams
    prepare: PrepareParams
    tune: TuneParams
    train: TrainParams
    evaluate: EvaluateParams
    visualize: VisualizeParams
    register_: RegisterParams = Field(alias="register")  # BaseModel has a method `register`, from ABCMeta
    promote: PromoteParams
    clean: CleanParams

    @model_validator(mode="after")
    def _variants_differ(self):
        if len(set(self.variants)) < len(self.variants):
            raise ValueError(f"variants: {self.variants} given; each name may be listed once")
        return self

    @model_validator(mode="after")
    def _images_are_larger_than_their_shift(self):
        if self.train.shift >= min(self.data.form.height, self.data.form.width):
            raise ValueError(
                f"train.shift: {self.train.shift} given; images of data.size {self.data.size} can move by less"
            )
        return self

    @model_validator(mode="after")
    def _a_growing_distortion_reaches_its_size(self):
        ramp, trainings = self.train.distortion_ramp, {"train.epochs": self.train.epochs}
        if self.tune.trials:
            trainings["tune.epochs"] = self.tune.epochs
        for setting, epochs in trainings.items():
            if ramp >= epochs:
                raise ValueError(
                    f"train.distortion_ramp: {ramp} given; less than {setting}: {epochs} is allowed, or no epoch has "
                    "the whole distortion"
                )
        return self

    @model_validator(mode="after")
    def _a_term_for_undone_motions_has_a_motion(self):
        self.check_alignment("train.alignment.weight", [self.train.alignment.weight])
        self.check_alignment("tune.search_space.alignment_weight", self.tune.search_space.alignment_weight)
        return self

    def check_alignment(self, setting: str, weights: Sequence[float]) -> None:
        """Check that the term of ``train.alignment`` is possible, if one of its weights is not 0.

        Raises:
            ValueError: images are mixed, or ``upright`` is set and images are upended or none is distorted. It names
                ``setting``.
        """
        given = next((f"{setting}: {weight} given" for weight in weights if weight), None)
        if given and self.train.mixup:
            raise ValueError(f"{given} with train.mixup: {self.train.mixup}; θ of a mixture has no motion")
        if given and self.train.alignment.to == "upright" and self.data.distortion.is_identity:
            raise ValueError(
                f"{given} with train.alignment.to: upright, but data.distortion moves no image; set it, or to: itself"
            )
        if given and self.train.alignment.to == "upright" and self.train.vertical_flip:
            raise ValueError(
                f"{given} with train.alignment.to: upright and train.vertical_flip: true; an image that is upside down "
                "is not upright"
            )

    @model_validator(mode="before")
    @classmethod
    def _replace_nulls(cls, values):
        return replace_nulls(values)


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml; nulls are replaced by the data set's defaults.

    Raises:
        UserError: with one line for each mistake, three at most.
    """
    return check_params(read_yaml(path, YAML(typ="safe")), path)


def check_params(values: Any, path: Path) -> Params:
    """Check the content of params.yaml and the variants that it names.

    Raises:
        UserError: with one line for each mistake, three at most.
    """
    params = check_settings(values, path, Params)
    for variant in params.variants:
        if variant != TUNED or variant_file(variant).exists():
            weight = load_variant(variant).alignment_weight
            try:
                params.check_alignment(f"{variant_file(variant)}: alignment_weight", [weight or 0.0])
            except ValueError as error:
                raise UserError(str(error)) from None
    return params
