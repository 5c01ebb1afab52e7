"""What the stage evaluate writes: metrics, DVC's plots, the comparison."""

from pathlib import Path

import numpy as np
from scipy import stats

from pipelines.evaluation.measurements import Curves, Result, bins_of, class_accuracy
from pipelines.evaluation.robustness import MOTIONS, Motion
from pipelines.runtime.files import read_json, write_json, write_text

METRICS = Path("metrics/evaluate.json")


PLOTS = Path("plots/evaluate")


COMPARISON = Path("reports/comparison.md")


def write_plots(chosen: dict[str, Result], truth: np.ndarray, classes: list[str]) -> None:
    """Data of DVC's plots, a file for each variant and plot: every image's actual and predicted class, each class's
    accuracy, and accuracy by confidence.
    """
    for variant, result in chosen.items():
        pairs = [{"actual": classes[t], "predicted": classes[p]} for t, p in zip(truth, result.predicted, strict=True)]
        write_json(PLOTS / "confusion" / f"{variant}.json", pairs)
        accuracies = class_accuracy(result.predicted, truth, classes)
        rows = [{"class": name, "accuracy": accuracy} for name, accuracy in accuracies.items()]
        write_json(PLOTS / "classes" / f"{variant}.json", rows)
        write_json(PLOTS / "reliability" / f"{variant}.json", [b._asdict() for b in bins_of(result, truth)])


def write_curves(curves: dict[str, Curves]) -> None:
    """Data of DVC's plots and of the stage visualize: of each motion and variant the accuracy by the amount of it."""
    for variant, of_variant in curves.items():
        for motion in MOTIONS:
            seeds = of_variant[motion.name]
            header = ["amount", "accuracy", *(f"seed_{seed}" for seed in seeds)]
            table = zip(motion.amounts, *seeds.values(), strict=True)
            rows = [[amount, np.mean(values), *values] for amount, *values in table]
            lines = [",".join(map(str, row)) for row in (header, *rows)]
            write_text(PLOTS / motion.name / f"{variant}.csv", "\n".join(lines) + "\n")


CURVES = Path("plots/evaluate")  # of the stage evaluate


def read_curve(motion: Motion, variant: str) -> np.ndarray:
    """What the stage evaluate wrote on one motion: amounts, means over the seeds, 95 % t intervals of these; (4, A)."""
    amounts, mean, *seeds = np.loadtxt(CURVES / motion.name / f"{variant}.csv", delimiter=",", skiprows=1).T
    half = np.full_like(mean, np.nan)
    if len(seeds) > 1:
        half = stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(seeds, axis=0)
    return np.stack([amounts, mean, mean - half, mean + half])


def read_reliability(variant: str) -> np.ndarray:
    """Of each bin, as the stage evaluate wrote them, confidence, accuracy and number of images: (M, 3)."""
    return np.array([list(b.values()) for b in read_json(CURVES / "reliability" / f"{variant}.json")])
