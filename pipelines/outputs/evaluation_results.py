"""Results and files of the stage evaluate.

``metrics/evaluate.json`` holds :class:`EvaluationResults`. ``plots/evaluate`` has one folder per DVC plot, with one
file per variant. ``reports/comparison.md`` compares the variants in tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.outputs.alignment_results import PLOTS, Alignment, ThetaResults
from pipelines.outputs.class_results import ClassScores, list_names
from pipelines.outputs.motions import Motion
from pipelines.runtime.files import read_json, write_json, write_text
from pipelines.settings.metric import Metric
from stn.theta_trouble import Trouble

METRICS = Path("metrics/evaluate.json")
COMPARISON = Path("reports/comparison.md")


@dataclass(frozen=True)
class SeedResults:
    """Results of the model of one training seed on the test images.

    Args:
        test_accuracy, test_balanced_accuracy, test_macro_f1: in [0, 1], see
            :class:`~pipelines.settings.metric.Metric`.
        test_loss: mean cross-entropy.
        never_right: names of the classes that have images and no correctly classified one.
        theta: None without a transformer.
    """

    test_accuracy: float
    test_balanced_accuracy: float
    test_macro_f1: float
    test_loss: float
    never_right: Sequence[str] = ()
    theta: ThetaResults | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SeedResults":
        """Parse the value of one seed in ``metrics/evaluate.json``."""
        return cls(**{**values, "theta": ThetaResults(**values["theta"]) if values.get("theta") else None})

    def on_test(self, metric: Metric) -> float:
        """A metric on the test images."""
        return getattr(self, f"test_{metric}")

    @property
    def on_test_by_name(self) -> dict[str, float]:
        """Each metric on the test images, by its name in MLflow."""
        return {f"test_{metric}": self.on_test(metric) for metric in Metric}

    @property
    def trouble(self) -> list[Trouble]:
        """The kinds of trouble that θ has; none without a transformer."""
        return [] if self.theta is None else self.theta.trouble


class Spread(NamedTuple):
    """Mean over training seeds in [0, 1], and standard deviation; None for a single seed."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean * 100:.2f}{'' if self.std is None else f' ± {self.std * 100:.2f}'} %"


@dataclass(frozen=True)
class VariantResults:
    """Results of one variant on the test images. Accuracies and errors are in [0, 1].

    The *chosen* model is the best one on validation, see
    :func:`~pipelines.outputs.trained_models.best_on_validation`.

    Args:
        test_accuracy: mean over training seeds, like ``test_balanced_accuracy``, ``test_macro_f1``, ``test_loss``,
            ``calibration_error``, all on validation, and ``robustness``.
        test_accuracy_std, test_balanced_accuracy_std, test_macro_f1_std: standard deviation over training seeds. None
            for a single seed.
        test_loss: mean cross-entropy.
        calibration_error: expected calibration error (Guo et al., 2017, equation 3).
        validation_accuracy, validation_balanced_accuracy, validation_macro_f1: after the last epoch. The last two are
            None for models of earlier code, which did not measure them.
        seeds: results of each training seed.
        final_fit: whether the training images included the validation images (``train.final_fit``). If so,
            metrics on validation are meaningless.
        chosen_seed: training seed of the chosen model.
        chosen_test_accuracy: test accuracy of the chosen model.
        classes: scores of each class by the chosen model, in the order of the labels.
        parameters: number of learned parameters.
        multiply_adds: multiply-adds for one image, see :func:`pipelines.evaluation.layer_table.layers`.
        robustness: name of the motion → mean accuracy over the range of its amounts.
        alignment: how much of a motion the transformer undoes. None without a transformer.
    """

    test_accuracy: float
    test_accuracy_std: float | None
    test_balanced_accuracy: float
    test_balanced_accuracy_std: float | None
    test_macro_f1: float
    test_macro_f1_std: float | None
    test_loss: float
    calibration_error: float
    validation_accuracy: float
    validation_balanced_accuracy: float | None
    validation_macro_f1: float | None
    seeds: Mapping[int, SeedResults]
    final_fit: bool
    chosen_seed: int
    chosen_test_accuracy: float
    classes: Sequence[ClassScores]
    parameters: int
    multiply_adds: int
    robustness: Mapping[str, float]
    alignment: Alignment | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VariantResults":
        """Parse the value of one variant in ``metrics/evaluate.json``."""
        seeds = {int(seed): SeedResults.from_json(results) for seed, results in values["seeds"].items()}
        alignment = Alignment.from_json(values["alignment"]) if values.get("alignment") else None
        classes = [ClassScores(**scores) for scores in values["classes"]]
        return cls(**{**values, "seeds": seeds, "alignment": alignment, "classes": classes})

    @property
    def chosen(self) -> SeedResults:
        """Results of the chosen model."""
        return self.seeds[self.chosen_seed]

    def on_test(self, metric: Metric) -> "Spread":
        """A metric on the test images over training seeds."""
        return Spread(getattr(self, f"test_{metric}"), getattr(self, f"test_{metric}_std"))

    def on_validation(self, metric: Metric) -> float | None:
        """A metric on the validation images, as the mean over training seeds; None if it was not measured."""
        return getattr(self, metric.on_validation)

    def to_json(self) -> dict[str, Any]:
        """Return the value of one variant in ``metrics/evaluate.json``."""
        values = asdict(self)
        return {**values, "seeds": {str(seed): results for seed, results in values["seeds"].items()}}


@dataclass(frozen=True)
class Difference:
    """Paired comparison of two models on the same images, see :func:`pipelines.evaluation.significance.compare`.

    Args:
        difference: metric of the second model minus that of the first, in [-1, 1].
        low, high: confidence interval of ``difference``.
        only_first, only_second: number of images that only this model classifies correctly.
        p_value: two-sided. For the accuracy of McNemar's exact test, for another metric of the paired bootstrap.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class EvaluationResults:
    """Results of all variants, and of all pairs of variants by ``"<second> vs <first>"``.

    ``metric`` selected the chosen models, and ``pairs`` are differences of it.
    """

    variants: Mapping[str, VariantResults]
    pairs: Mapping[str, Difference]
    metric: Metric = Metric.ACCURACY

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "EvaluationResults":
        """Parse the content of ``metrics/evaluate.json``."""
        return cls(
            variants={name: VariantResults.from_json(results) for name, results in values["variants"].items()},
            pairs={pair: Difference(**difference) for pair, difference in values["pairs"].items()},
            metric=Metric(values["metric"]),
        )

    @property
    def trouble(self) -> list[str]:
        """One line for each model with trouble in θ."""
        return [
            f"{name}, training seed {seed}: {describe_trouble(results.trouble)}"
            for name, variant in self.variants.items()
            for seed, results in variant.seeds.items()
            if results.trouble
        ]

    @property
    def never_right(self) -> list[str]:
        """One line for each model that classifies no image of some class correctly."""
        return [
            f"{name}, training seed {seed}: {describe_never_right(results.never_right, len(variant.classes))}"
            for name, variant in self.variants.items()
            for seed, results in variant.seeds.items()
            if results.never_right
        ]

    @property
    def p_value_name(self) -> str:
        """What the p-values of ``pairs`` are."""
        return "McNemar's exact p" if self.metric == Metric.ACCURACY else "paired bootstrap p"

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metrics/evaluate.json``."""
        return {
            "metric": str(self.metric),
            "variants": {name: results.to_json() for name, results in self.variants.items()},
            "pairs": {pair: asdict(difference) for pair, difference in self.pairs.items()},
        }


def describe_trouble(trouble: Sequence[Trouble]) -> str:
    """Describe kinds of trouble in θ as one sentence without a period."""
    return "; ".join(kind.description for kind in trouble)


def describe_never_right(names: Sequence[str], classes: int) -> str:
    """Describe classes without a right answer as one sentence without a period; ``classes`` is the number of all."""
    return f"no test image of {len(names)} of {classes} classes is classified correctly: {list_names(names)}"


def write_results(results: EvaluationResults, path: Path = METRICS) -> None:
    """Write the results of an evaluation as JSON."""
    write_json(path, results.to_json())


def read_results(path: Path = METRICS) -> EvaluationResults:
    """Read the results of the last evaluation.

    Raises:
        ExternalError: the file is damaged.
    """
    return EvaluationResults.from_json(read_json(path))


class ReliabilityBin(NamedTuple):
    """One bin of a reliability diagram: mean confidence and accuracy in [0, 1], and number of images.

    The confidence of an image is the highest class probability.
    """

    confidence: float
    accuracy: float
    images: int


def write_reliability(variant: str, bins: Sequence[ReliabilityBin]) -> None:
    """Write the plot "reliability": the bins of a reliability diagram."""
    write_json(PLOTS / "reliability" / f"{variant}.json", [bin._asdict() for bin in bins])


def read_reliability(variant: str) -> list[ReliabilityBin]:
    """Read what :func:`write_reliability` wrote."""
    return [ReliabilityBin(**bin) for bin in read_json(PLOTS / "reliability" / f"{variant}.json")]


def write_curve(motion: Motion, variant: str, accuracies: Mapping[int, Sequence[float]]) -> None:
    """Write the plot of a motion: accuracy at each amount, as the mean over training seeds and for each seed.

    Args:
        accuracies: training seed → accuracy at each of the motion's amounts.
    """
    header = ["amount", "accuracy", *(f"seed_{seed}" for seed in accuracies)]
    table = zip(motion.amounts, *accuracies.values(), strict=True)
    rows = [[amount, np.mean(values), *values] for amount, *values in table]
    lines = [",".join(map(str, row)) for row in (header, *rows)]
    write_text(PLOTS / motion.name / f"{variant}.csv", "\n".join(lines) + "\n")


def read_curve(motion: Motion, variant: str) -> np.ndarray:
    """Read the accuracies (S, A) of each training seed at each amount of a motion."""
    _, _, *seeds = np.loadtxt(PLOTS / motion.name / f"{variant}.csv", delimiter=",", skiprows=1).T
    return np.array(seeds)
