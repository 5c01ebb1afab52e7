"""The settings of params.yaml: one class per section, with the allowed values.

Imports neither torch nor Ray, so mistakes are reported at once.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator
from ruamel.yaml import YAML

from pipelines.settings.data_source import check_as_dvc_reads_it
from pipelines.settings.dataset_defaults import DATASET_DEFAULTS, OWN_DEFAULTS
from pipelines.settings.ranges import FloatDomain, IntDomain, each
from pipelines.settings.variants import (
    BASELINE,
    FORMER_BASELINE,
    TUNED,
    Activation,
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
from pipelines.settings.yaml_file import Section, check_settings, read_yaml

PARAMS_FILE = Path("params.yaml")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, le=10**9)]
NoGate = Literal["none"]
Share = Annotated[float, Field(ge=0, le=1)]


class DistortionParams(Section):
    """The distortion of images: a protocol of the paper, or random rotation, scale and shift."""

    protocol: Literal["none", "R", "RTS", "P", "E", "TC"] = "none"
    rotation: float = Field(ge=0, le=180)
    scale: list[Annotated[float, Field(gt=0, le=10)]] = Field(min_length=2, max_length=2)
    shift: float = Field(ge=0, le=1)
    padding_mode: PaddingMode

    @model_validator(mode="after")
    def _scale_is_a_range(self):
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: {self.scale} given; the smaller factor comes first")
        return self


class DataParams(Section):
    """The data set, its source, the form of the images, and their distortion."""

    dataset: Name
    source: str = Field(min_length=1)
    size: int = Field(ge=4, le=1024)
    channels: Literal[1, 3]
    skip_broken: bool
    distortion: DistortionParams

    @model_validator(mode="after")
    def _source_is_a_path_to_dvc(self):
        check_as_dvc_reads_it(self.source)
        return self


class PrepareParams(Section):
    """The shares of the validation and test splits, and the seed of both."""

    validation: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)
    seed: Seed


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


class TuneParams(Section):
    """The study: trials, their training, finalists and the search space."""

    trials: int = Field(ge=0, le=100_000)
    epochs: Count
    seed: Seed
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "hyperband", "none"]
    max_parameters: Literal["stn", "none"] | Count
    gpus_per_trial: float = Field(gt=0, le=1)
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
    def _seeds_differ(self):
        if len({self.seed, *self.final_seeds}) <= len(self.final_seeds):
            raise ValueError(f"final_seeds: {self.final_seeds} given; all must differ, and from tune.seed: {self.seed}")
        return self


class RecipeParams(Section):
    """The training recipe of one network, shared by trainings, trials and finals."""

    epochs: Count
    batch_size: Count
    optimizer: Literal["muon", "sgd"]
    lr: float = Field(gt=0, le=10)
    warmup: float = Field(ge=0, lt=1)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1)
    max_grad_norm: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    flip: bool
    shift: int = Field(ge=0, le=64)
    precision: Literal["auto", "fp32", "bf16"]


class WorkerRange(Section):
    """As many workers as the cluster has room for, from ``min`` to ``max``; the number may change during training."""

    min: Count
    max: Count

    @model_validator(mode="after")
    def _is_a_range(self):
        if self.max < self.min:
            raise ValueError(f"max: {self.max} given; must be at least min: {self.min}")
        return self


# Discriminate by type, so that only one union member reports an error.
WorkerCount = Annotated[
    Annotated[Literal["auto"] | Count, Tag("one")] | Annotated[WorkerRange, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | WorkerRange) else "one"),
]


class TrainParams(RecipeParams):
    """The recipe, with the training seeds and the workers."""

    seeds: list[Seed] = Field(min_length=1)
    final_fit: bool
    workers: WorkerCount
    threads: Literal["auto"] | Count
    max_failures: int = Field(ge=0, le=10**9)

    @model_validator(mode="after")
    def _seeds_differ(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} given; each seed may be listed once")
        return self


class EvaluateParams(Section):
    """Batch size, bootstrap and robustness measurement of the evaluation."""

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
        if self.train.shift >= self.data.size:
            raise ValueError(
                f"train.shift: {self.train.shift} given; images of data.size {self.data.size} can move by less"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _replace_nulls_by_the_data_sets_defaults(cls, values):
        if not isinstance(values, dict):
            return values  # the next validator refuses it
        data = values.get("data")
        dataset = data.get("dataset") if isinstance(data, dict) else None
        defaults = DATASET_DEFAULTS.get(str(dataset), OWN_DEFAULTS)._asdict()
        filled = dict(values)
        for name in ("data", "train"):
            if isinstance(section := values.get(name), dict):
                filled[name] = {
                    key: defaults[key] if value is None and key in defaults else value for key, value in section.items()
                }
        if isinstance(tune := values.get("tune"), dict) and tune.get("epochs", 0) is None:
            filled["tune"] = tune | {"epochs": defaults["tune_epochs"]}
        return filled


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
            load_variant(variant)
    return params
