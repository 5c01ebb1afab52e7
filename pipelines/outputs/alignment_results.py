"""How much of a motion of the images a transformer undoes: results and files of the stage evaluate.

``plots/evaluate/undone_<motion>`` is a DVC plot with one file per variant.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.outputs.motions import Motion
from pipelines.runtime.files import write_text
from stn.theta_trouble import Symptoms, Trouble

PLOTS = Path("plots/evaluate")


@dataclass(frozen=True)
class Slope:
    """Slope of what was undone on what was applied: the median over images and training seeds.

    Args:
        median: the median slope.
        low, high: its confidence interval.
        mean: the mean slope. It is far below the median where θ of some images jumps by half a turn: one jump takes
            2 to 4 from the slope of an image.
    """

    median: float
    low: float
    high: float
    mean: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Alignment:
    """How much of a motion a variant's transformers undo, see :mod:`stn.alignment`. Errors are in pixels.

    Args:
        slopes: name of the motion → its slope, 0 for a transformer that does nothing and 1 for one that undoes it.
        corner_error, corner_error_90: median and 90th percentile of the distance between the corners of two rectified
            views of an image that was moved at random, over images and training seeds.
        fixed_error, fixed_error_90: the same if θ of the first view is used for both views.
        undone: share of the motion that is undone, 1 - corner_error / fixed_error: 0 if θ does not react to motions,
            negative if it adds to them.
    """

    slopes: Mapping[str, Slope]
    corner_error: float
    corner_error_90: float
    fixed_error: float
    fixed_error_90: float
    undone: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Alignment":
        """Parse the value ``alignment`` of one variant in ``metrics/evaluate.json``."""
        return cls(**{**values, "slopes": {name: Slope(**slope) for name, slope in values["slopes"].items()}})

    def to_json(self) -> dict[str, Any]:
        """Return the value ``alignment`` of one variant in ``metrics/evaluate.json``."""
        return asdict(self)


@dataclass(frozen=True)
class ThetaResults:
    """θ of one model on the test images.

    Args:
        undone: share of the motion that is undone, see :class:`Alignment`.
        outside, mirrored, one_color, spread: see :class:`stn.theta_trouble.Symptoms`.
    """

    undone: float
    outside: float
    mirrored: float
    one_color: float
    spread: float | None

    @property
    def trouble(self) -> list[Trouble]:
        """The kinds of trouble that θ has."""
        return Symptoms(self.outside, self.mirrored, self.one_color, self.spread).trouble


class UndoneCurve(NamedTuple):
    """What is undone at each amount of a motion, in the unit of the motion: median, 10th and 90th percentile of
    the images of all training seeds. Arrays (A,)."""

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def write_undone(motion: Motion, curves: Mapping[str, UndoneCurve]) -> None:
    """Write the plot of a motion: what the transformer of each variant undoes of each applied amount."""
    folder = _folder(motion)
    folder.mkdir(parents=True, exist_ok=True)  # stays empty if no variant has a transformer; DVC needs it
    for variant, curve in curves.items():
        rows = zip(motion.amounts, *curve, strict=True)
        lines = ["applied,undone,low,high", *(",".join(map(str, row)) for row in rows)]
        write_text(folder / f"{variant}.csv", "\n".join(lines) + "\n")


def read_undone(motion: Motion) -> dict[str, UndoneCurve]:
    """Read what :func:`write_undone` wrote: variant → curve."""
    return {
        path.stem: UndoneCurve(*np.loadtxt(path, delimiter=",", skiprows=1).T[1:])
        for path in sorted(_folder(motion).glob("*.csv"))
    }


def _folder(motion: Motion) -> Path:
    return PLOTS / f"undone_{motion.name}"
