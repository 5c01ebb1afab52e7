"""Results of each class on the test images, and their two DVC plots, which stay readable with many classes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipelines.outputs.alignment_results import PLOTS
from pipelines.runtime.files import read_json, write_json

MOST_CLASSES = 30  # that a plot, a figure or a table shows
MOST_NAMES = 10  # in a sentence
LONGEST_NAME = 40  # characters, in tables, figures and sentences
LONGEST_TITLE = 18  # characters above an image that are not wider than it


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, in [0, 1].

    Args:
        name: of the class.
        images: number of test images.
        precision: share of the images predicted as the class that are of it. None if no image is.
        recall: share of the images of the class that are predicted as it. None without images.
        f1: harmonic mean of precision and recall, 0 if no image is predicted as the class. None without images.
    """

    name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None


def weakest(classes: Iterable[ClassScores]) -> list[ClassScores]:
    """Classes with images, by rising F1."""
    return sorted((scores for scores in classes if scores.f1 is not None), key=lambda scores: scores.f1 or 0.0)


def list_names(names: Sequence[str]) -> str:
    """List names in a sentence, :data:`MOST_NAMES` at most."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(shorten, names[:MOST_NAMES])) + more


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """Replace the middle of a name by an ellipsis if it has more than ``longest`` characters."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[half + 1 - longest :]}"


def write_class_scores(variant: str, classes: Sequence[ClassScores]) -> None:
    """Write the plot "classes": accuracy, precision and F1 of each class.

    Of more than :data:`MOST_CLASSES` classes it has those with the lowest F1, and the mean of the others as one.
    """
    shown, others = list(classes), []
    if len(shown) > MOST_CLASSES:
        ordered = weakest(classes)
        shown, others = ordered[: MOST_CLASSES - 1], ordered[MOST_CLASSES - 1 :]
    rows = [_plot_row(scores) for scores in shown]
    if others:
        means = {
            name: float(np.mean([getattr(scores, name) or 0.0 for scores in others]))
            for name in ("recall", "precision", "f1")
        }
        images = sum(scores.images for scores in others)
        rows.append(_plot_row(ClassScores(f"mean of {len(others)} other classes", images, **means)))
    write_json(PLOTS / "classes" / f"{variant}.json", rows)


def _plot_row(scores: ClassScores) -> dict[str, Any]:
    return {
        "class": scores.name, "accuracy": scores.recall, "precision": scores.precision, "f1": scores.f1,
        "images": scores.images,
    }  # fmt: skip


class Confusion(NamedTuple):
    """Test images by actual and predicted class.

    Args:
        names: of the classes shown. The last one stands for all other classes if ``others`` is not 0.
        counts: images by actual (row) and predicted class (column), (len(names), len(names)).
        others: number of classes that are not shown.
    """

    names: list[str]
    counts: np.ndarray
    others: int


def condense(confusion: np.ndarray, classes: Sequence[str]) -> Confusion:
    """Show the classes that are confused most, :data:`MOST_CLASSES` at most, and merge the others.

    Pairs of classes are taken by the number of images that are mistaken for the other class, most first. Images between
    two other classes are left out.

    Args:
        confusion: images by actual (row) and predicted class (column), (classes, classes).
    """
    if len(classes) <= MOST_CLASSES:
        return Confusion(list(classes), confusion, 0)
    mistakes = np.triu(confusion + confusion.T, 1)
    chosen: list[int] = []
    for pair in np.argsort(-mistakes, axis=None, kind="stable"):
        new = [int(label) for label in divmod(pair, len(classes)) if label not in chosen]
        if not mistakes.flat[pair] or len(chosen) + len(new) > MOST_CLASSES - 1:
            break
        chosen += new
    chosen = sorted(chosen) or list(range(MOST_CLASSES - 1))
    member = np.zeros((len(classes), len(chosen) + 1), dtype=int)
    member[:, -1] = 1
    member[chosen] = np.eye(len(chosen), len(chosen) + 1, dtype=int)
    counts = member.T @ confusion @ member
    counts[-1, -1] = 0
    others = len(classes) - len(chosen)
    return Confusion([*(classes[label] for label in chosen), f"{others} other classes"], counts, others)


def write_confusion(variant: str, confusion: Confusion) -> None:
    """Write the plot "confusion": actual and predicted class name of each test image shown."""
    rows = [
        {"actual": confusion.names[actual], "predicted": confusion.names[predicted]}
        for actual, predicted in np.argwhere(confusion.counts)
        for _ in range(confusion.counts[actual, predicted])
    ]
    write_json(PLOTS / "confusion" / f"{variant}.json", rows)


def read_confusion(variant: str, classes: Sequence[str]) -> Confusion:
    """Read what :func:`write_confusion` wrote.

    Args:
        classes: names of all classes, in the order of the labels.
    """
    pairs = Counter((row["actual"], row["predicted"]) for row in read_json(PLOTS / "confusion" / f"{variant}.json"))
    named = {name for pair in pairs for name in pair}
    names = [name for name in classes if name in named or len(classes) <= MOST_CLASSES]
    others = len(classes) - len(names)
    if others:
        names.append(f"{others} other classes")
    counts = np.array([[pairs[actual, predicted] for predicted in names] for actual in names])
    return Confusion(names, counts, others)
