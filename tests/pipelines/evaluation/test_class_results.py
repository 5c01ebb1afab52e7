"""Plots of the classes: all of a few classes, and the most telling of many."""

import json

import numpy as np
import pytest

from pipelines.outputs.alignment_results import PLOTS
from pipelines.outputs.class_results import (
    MOST_CLASSES,
    ClassScores,
    condense,
    list_names,
    read_confusion,
    shorten,
    weakest,
    write_class_scores,
    write_confusion,
)
from tests.results import class_scores

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(plot: str) -> list[dict]:
    return json.loads((PLOTS / plot / "plain.json").read_text())


def test_a_few_classes_are_shown_in_the_order_of_their_labels():
    write_confusion("plain", condense(np.array([[2, 0, 1], [0, 0, 0], [0, 1, 3]]), ["dog", "cat", "eel"]))
    dog_as_eel, eel_as_cat = {"actual": "dog", "predicted": "eel"}, {"actual": "eel", "predicted": "cat"}
    right = [{"actual": name, "predicted": name} for name in ("dog", "eel")]
    assert rows("confusion") == [*[right[0]] * 2, dog_as_eel, eel_as_cat, *[right[1]] * 3]
    read = read_confusion("plain", ["dog", "cat", "eel"])
    assert (read.names, read.counts.tolist(), read.others) == (
        ["dog", "cat", "eel"], [[2, 0, 1], [0, 0, 0], [0, 1, 3]], 0,
    )  # fmt: skip
    write_class_scores("plain", [ClassScores("dog", 4, 0.5, 0.25, 0.3), ClassScores("cat", 0, None, None, None)])
    assert rows("classes") == [
        {"class": "dog", "accuracy": 0.25, "precision": 0.5, "f1": 0.3, "images": 4},
        {"class": "cat", "accuracy": None, "precision": None, "f1": None, "images": 0},
    ]


@pytest.mark.parametrize("classes", [31, 200, 1000])
def test_of_many_classes_those_are_shown_that_are_confused_most(classes):
    names, confusion = [f"c{i}" for i in range(classes)], np.zeros((classes, classes), dtype=int)
    np.fill_diagonal(confusion, 50)
    for i in range(0, 20, 2):  # ten pairs, confused in both directions
        confusion[i, i + 1], confusion[i + 1, i] = 9, 4 + i
    confusion[0, 30] = 1
    condensed = condense(confusion, names)
    assert condensed.names[:20] == names[:20] and len(condensed.names) <= MOST_CLASSES
    assert condensed.names[-1] == f"{classes - len(condensed.names) + 1} other classes"
    assert condensed.counts[:2, :2].tolist() == [[50, 9], [4, 50]]
    assert condensed.counts.sum() == confusion[:20].sum() + (50 if "c30" in condensed.names else 0)
    write_confusion("plain", condensed)
    read = read_confusion("plain", names)
    assert (read.names, read.counts.tolist(), read.others) == (
        condensed.names, condensed.counts.tolist(), condensed.others,
    )  # fmt: skip


def test_mistakes_between_a_shown_class_and_another_are_kept():
    """Only 29 classes are shown, so that one of 15 pairs is not; its images that are mistaken for a shown class are."""
    confusion = np.zeros((40, 40), dtype=int)
    for i in range(0, 30, 2):
        confusion[i, i + 1] = 100 - i
    confusion[39, 0], confusion[38, 37] = 3, 1
    condensed = condense(confusion, [str(i) for i in range(40)])
    assert condensed.names == [*map(str, range(28)), "12 other classes"] and condensed.others == 12
    assert condensed.counts[-1, 0] == 3 and condensed.counts[-1, -1] == 0


def test_without_mistakes_some_classes_are_shown():
    condensed = condense(np.eye(100, dtype=int), [str(i) for i in range(100)])
    assert len(condensed.names) == MOST_CLASSES and condensed.counts.sum() == MOST_CLASSES - 1


def test_of_many_classes_the_plot_has_the_weakest_and_the_mean_of_the_others():
    scores = class_scores(**{f"c{i}": i / 100 for i in range(100)}, empty=None)
    write_class_scores("plain", scores)
    found = rows("classes")
    assert [row["class"] for row in found] == [*(f"c{i}" for i in range(29)), "mean of 71 other classes"]
    assert found[-1]["f1"] == pytest.approx(np.mean(np.arange(29, 100) / 100)) and found[-1]["images"] == 710
    assert [each.name for each in weakest(scores)[:2]] == ["c0", "c1"]


def test_names_in_a_sentence_are_few_and_short():
    assert list_names(["a", "b"]) == "a, b"
    assert list_names([f"c{i}" for i in range(12)]).endswith("c9 and 2 more")
    assert list_names(["x" * 100]) == "x" * 20 + "…" + "x" * 19


def test_long_names_are_shortened_and_others_stay():
    names = ["cat", "x" * 22, "a name that is far too long to stand above an image"]
    assert [shorten(name, 22) for name in names] == [*names[:2], "a name that…e an image"]
    assert {len(shorten("x" * 99, longest)) for longest in (18, 21)} == {18, 21}
