"""The confusion matrix of the test images as a figure."""

import numpy as np
from matplotlib.figure import Figure

from pipelines.outputs.class_results import Confusion, shorten

CELL = 0.3  # inches


def draw_confusion(confusion: Confusion, classes: int) -> Figure:
    """Draw the images by actual (row) and predicted class (column); the color is the share of the row.

    Args:
        confusion: counts of the classes shown.
        classes: number of all classes.
    """
    names = [shorten(name) for name in confusion.names]
    side = max(2.0, CELL * len(names))
    margin = 0.6 + 0.075 * max(map(len, names))
    figure = Figure(figsize=(side + margin, side + margin + 0.4), layout="constrained")
    axes = figure.subplots()
    totals = confusion.counts.sum(1, keepdims=True)
    shares = np.divide(confusion.counts, totals, out=np.zeros(confusion.counts.shape), where=totals > 0)
    axes.imshow(shares, cmap="Reds", vmin=0, vmax=1)
    for row, column in np.argwhere(confusion.counts):
        count = confusion.counts[row, column]
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", fontsize=6, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("actual class")
    if confusion.others:
        shown = len(names) - 1
        axes.set_title(f"the {shown} of {classes} classes that are confused most", fontsize=9)
    return figure
