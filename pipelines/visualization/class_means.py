"""Mean images of classes and how much the images of a class differ: sharper means show that a transformer aligns."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipelines.outputs.class_results import LONGEST_TITLE, shorten
from pipelines.visualization.figures import lay_out_cells, show, to_uint8


class ClassMeans(NamedTuple):
    """Mean images of K classes.

    Args:
        images: the mean images, pixel values in [0, 255], (K, C, H, W).
        variances: mean over the pixels of the variance between the images of a class, for pixel values in [0, 1], (K,).
        within: share of the variance of all these images that is within the classes, in [0, 1]; NaN if all images are
            equal. It is 0 if the images of a class are equal, and 1 if the classes have the same mean. Unlike the
            variances, it does not fall if the contrast of all images falls.
    """

    images: Tensor
    variances: Tensor
    within: float


class ClassSums:
    """Sums over the images of the first ``classes`` classes, from which their :class:`ClassMeans` follow."""

    def __init__(self, classes: int):
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.sums = self.squares = torch.empty(0)

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Add images (N, C, H, W), pixel values in [0, 255], with labels (N,). Images of other classes are left out."""
        chosen = labels < len(self.counts)
        pixels, labels = images[chosen].double() / 255, labels[chosen]
        if not len(self.sums):
            self.sums = torch.zeros(len(self.counts), *pixels.shape[1:], dtype=torch.float64)
            self.squares = torch.zeros_like(self.sums)
        self.counts += labels.bincount(minlength=len(self.counts))
        self.sums.index_add_(0, labels, pixels)
        self.squares.index_add_(0, labels, pixels.square())

    def means(self) -> ClassMeans:
        """Return the means over the images so far. A class without images is black, with variance NaN."""
        counts, total = self.counts[:, None, None, None], self.counts.sum()
        means = self.sums / counts
        # Rounding can make a variance of zero negative.
        variances = (self.squares / counts - means.square()).flatten(1).mean(1).clamp(min=0)
        overall = (self.squares.sum(0) / total - (self.sums.sum(0) / total).square()).mean()
        within = (variances * self.counts).nansum() / total / overall
        varies = overall > 1e-12
        return ClassMeans(255 * means.nan_to_num().float(), variances, within.item() if varies else math.nan)


def draw_class_means(before: ClassMeans, after: ClassMeans, classes: Sequence[str], total: int) -> Figure:
    """Draw the mean image of each class before the transformer and, below it, after it, each with its variance.

    Args:
        classes: name of each class, K.
        total: number of all classes; a larger one than K is named in the title.
    """
    height, width = (max(means.images.shape[side] for means in (before, after)) for side in (2, 3))
    columns, cell_height, cell_width = lay_out_cells(len(classes), height, width)
    rows = math.ceil(len(classes) / columns)
    columns = math.ceil(len(classes) / rows)
    size = (columns * cell_width * 1.1, rows * cell_height * 2 + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, name in enumerate(classes):
        for row, means in enumerate((before, after)):
            ax = axes[i // columns * 2 + row, i % columns]
            show(ax, to_uint8(means.images[i]))
            variance = f"variance {means.variances[i]:.4f}"
            ax.set_title(variance if row else f"{shorten(name, LONGEST_TITLE)}\n{variance}", fontsize=7)
    shares = ("all images are equal" if math.isnan(w) else f"{w:.1%}" for w in (before.within, after.within))
    shown = f"the first {len(classes)} of {total} classes; " if total > len(classes) else ""
    title = "share of the variance within classes: input {}, rectified {}".format(*shares)
    figure.suptitle(shown + title, fontsize=9)
    return figure
