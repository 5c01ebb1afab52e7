"""The figure of the confusion matrix: its labels, its numbers and its title."""

import io

import numpy as np
import pytest

from pipelines.outputs.class_results import condense
from pipelines.visualization.confusion import draw_confusion


@pytest.mark.parametrize("classes", [2, 30, 200, 1000])
def test_the_figure_stays_small_and_says_how_many_classes_it_shows(classes):
    rng = np.random.default_rng(0)
    confusion = rng.poisson(0.02, (classes, classes))
    names = [f"class $_{i} with a long name that would take all of the room of the figure" for i in range(classes)]
    condensed = condense(confusion, names)
    figure = draw_confusion(condensed, classes)
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    assert max(figure.get_size_inches()) < 14
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(shown) == len(condensed.names) <= 30 and all(len(label) <= 40 for label in shown)
    numbers = sorted(int(text.get_text()) for text in axes.texts)
    assert numbers == sorted(condensed.counts[condensed.counts > 0].tolist())
    assert axes.get_title() == (
        "" if classes <= 30 else f"the {len(shown) - 1} of {classes} classes that are confused most"
    )
