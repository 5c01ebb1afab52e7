"""What the stage evaluate writes and later stages read: metrics, DVC's plots, the comparison.

``metrics/evaluate.json`` holds the metrics of each variant and of each pair of variants. ``plots/evaluate`` has a
folder for each plot with a file for each variant.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.runtime.files import read_json, write_json, write_text

METRICS = Path("metrics/evaluate.json")
PLOTS = Path("plots/evaluate")
COMPARISON = Path("reports/comparison.md")


class Motion(NamedTuple):
    """One way to move the content of test images: the amounts that are tried, their unit, the amount of no motion."""

    name: str
    amounts: tuple[float, ...]
    unit: str
    still: float

    def __str__(self) -> str:
        return f"{self.name} {self.amounts[0]:g} to {self.amounts[-1]:g} {self.unit}".rstrip()


# There is a curve of each: plots/evaluate/<name>/<variant>.csv.
ROTATION = Motion("rotation", tuple(range(-90, 91, 15)), "°", 0.0)
MOTIONS = (
    ROTATION,
    Motion("scale", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6), "×", 1.0),
    Motion("shift", (-0.3, -0.25, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3), "of the size", 0.0),
)


def write_plot(plot: str, variant: str, rows: list[dict[str, Any]]) -> None:
    """Write the rows of one variant for DVC's plot ``plot``: confusion, classes or reliability."""
    write_json(PLOTS / plot / f"{variant}.json", rows)


def write_curve(motion: Motion, variant: str, accuracies: Mapping[int, Sequence[float]]) -> None:
    """Write the accuracies of a variant's models, by training seed, at each amount of a motion."""
    header = ["amount", "accuracy", *(f"seed_{seed}" for seed in accuracies)]
    table = zip(motion.amounts, *accuracies.values(), strict=True)
    rows = [[amount, np.mean(values), *values] for amount, *values in table]
    lines = [",".join(map(str, row)) for row in (header, *rows)]
    write_text(PLOTS / motion.name / f"{variant}.csv", "\n".join(lines) + "\n")


def read_curve(motion: Motion, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies at each amount of a motion: the mean over training seeds (A,), and each seed's (S, A)."""
    _, mean, *seeds = np.loadtxt(PLOTS / motion.name / f"{variant}.csv", delimiter=",", skiprows=1).T
    return mean, np.array(seeds)


def read_reliability(variant: str) -> np.ndarray:
    """Confidence, accuracy and number of images of each bin of a reliability diagram: (M, 3)."""
    return np.array([list(bin.values()) for bin in read_json(PLOTS / "reliability" / f"{variant}.json")])
