"""Charts of measured values. Each function returns a matplotlib figure."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from pipelines.outputs.alignment_results import UndoneCurve
from pipelines.outputs.evaluation_results import ReliabilityBin
from pipelines.outputs.motions import UNDONE_MOTIONS, Motion
from pipelines.outputs.trained_models import Metrics

ACCENT = "#d1495b"
SLOPES = (-0.5, 1.5)  # range of the axis
UNITS = {"rotation": "degrees", "shift_x": "half images", "shift_y": "half images", "outside": "share of the grid"}


class MeanCurve(NamedTuple):
    """Mean over training seeds at each amount of a motion, with confidence interval. Arrays (A,).

    ``low`` and ``high`` are NaN for a single seed.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_curve(curves: np.ndarray) -> MeanCurve:
    """Average curves (S, A) of S training seeds. The interval is the 95 % t interval of the mean."""
    seeds, mean = len(curves), curves.mean(0)
    half = np.full_like(mean, np.nan)
    if seeds > 1:
        half = stats.t.ppf(0.975, seeds - 1) * stats.sem(curves, axis=0)
    return MeanCurve(mean, mean - half, mean + half)


def draw_theta_distributions(described: Mapping[str, Tensor]) -> Figure:
    """Draw a histogram of each quantity (N,) that :meth:`stn.transforms.Transform.describe` returns."""
    columns = 3
    rows = math.ceil(len(described) / columns)
    figure = Figure(figsize=(columns * 3.2, rows * 2.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax, (name, values) in zip(axes, described.items(), strict=False):
        # In fp64, because neighboring fp32 values are too close for 40 bins.
        ax.hist(values[values.isfinite()].double().numpy(), bins=40, color=ACCENT)
        ax.set_title(f"{name}: mean {values.mean():.3g}, std {values.std():.3g}", fontsize=9)
        ax.set_xlabel(UNITS.get(name.rstrip("_0123456789"), ""), fontsize=8)  # parallel heads append "_<number>"
        ax.tick_params(labelsize=7)
    for ax in axes[len(described) :]:
        ax.axis("off")
    return figure


def draw_learning_curves(histories: Mapping[str, Sequence[Sequence[Metrics]]], metric: str, label: str) -> Figure:
    """Draw a metric by epoch: one line per training seed, one color per variant.

    Args:
        histories: variant → training seeds → epochs.
        metric: name of the metric.
        label: label of the y axis.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for color, (variant, of_seeds) in enumerate(histories.items()):
        for i, history in enumerate(of_seeds):
            axes.plot(
                [entry["epoch"] for entry in history], [entry[metric] for entry in history],
                color=f"C{color}", linewidth=1.2, label=variant if i == 0 else None,
            )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_undone_by_epoch(histories: Mapping[str, Sequence[Sequence[Metrics]]]) -> Figure:
    """Draw what θ undoes of each motion after each epoch: one line per training seed, one color per variant.

    Values are slopes: 0 for nothing, 1 for the whole motion. Those outside :data:`SLOPES` are cut off.

    Args:
        histories: variant → training seeds → epochs; variants with a transformer.
    """
    figure = Figure(figsize=(4.2 * len(UNDONE_MOTIONS), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(UNDONE_MOTIONS), sharey=True))
    for ax, motion in zip(panels, UNDONE_MOTIONS, strict=True):
        for color, (variant, of_seeds) in enumerate(histories.items()):
            for i, history in enumerate(of_seeds):
                values = [entry[f"theta_undone_{motion.name}"] for entry in history]
                label = variant if i == 0 else None
                ax.plot([entry["epoch"] for entry in history], values, color=f"C{color}", linewidth=1.2, label=label)
        for level in (0, 1):
            ax.axhline(level, color="gray", linewidth=0.7, linestyle=":")
        ax.set_ylim(*SLOPES)
        ax.set_title(motion.name, fontsize=9)
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("undone by θ")
    figure.axes[0].legend()
    return figure


def draw_robustness(curves: Mapping[Motion, Mapping[str, MeanCurve]]) -> Figure:
    """Draw test accuracy by amount of motion: one panel per motion, one line with interval per variant.

    Args:
        curves: motion → variant → accuracies in [0, 1]. A dotted line marks the amount that moves nothing.
    """
    figure = Figure(figsize=(4.2 * len(curves), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(curves), sharey=True))
    for axes, (motion, of_variants) in zip(panels, curves.items(), strict=True):
        for color, (variant, curve) in enumerate(of_variants.items()):
            axes.plot(motion.amounts, curve.mean, color=f"C{color}", linewidth=1.2, label=variant)
            axes.fill_between(motion.amounts, curve.low, curve.high, color=f"C{color}", alpha=0.2, linewidth=0)
        axes.axvline(motion.still, color="gray", linewidth=0.7, linestyle=":")
        axes.set_xlabel(str(motion))
        axes.grid(alpha=0.3)
        axes.set_ylim(0, 1)
    figure.axes[0].set_ylabel("test accuracy")
    figure.axes[0].legend()
    return figure


def draw_undone(curves: Mapping[Motion, Mapping[str, UndoneCurve]]) -> Figure:
    """Draw what transformers undo of each applied amount: one panel per motion, one line per variant.

    Lines are medians, and the band holds 80 % of the images. A transformer that undoes a motion lies on the diagonal,
    and one that does nothing on the horizontal line.

    Args:
        curves: motion → variant → what is undone.
    """
    figure = Figure(figsize=(4.2 * len(curves), 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(curves)))
    for ax, (motion, of_variants) in zip(panels, curves.items(), strict=True):
        ax.plot(motion.amounts, motion.amounts, color="gray", linewidth=0.7, linestyle=":")
        ax.axhline(motion.still, color="gray", linewidth=0.7)
        for color, (variant, curve) in enumerate(of_variants.items()):
            ax.plot(motion.amounts, curve.median, color=f"C{color}", linewidth=1.2, label=variant)
            ax.fill_between(motion.amounts, curve.low, curve.high, color=f"C{color}", alpha=0.2, linewidth=0)
        ax.set_xlabel(f"applied {motion}")
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("undone by θ")
    figure.axes[0].legend()
    return figure


def draw_reliability(bins: Mapping[str, Sequence[ReliabilityBin]]) -> Figure:
    """Draw a reliability diagram (Guo et al., 2017, section 2) of each variant: accuracy by confidence.

    A perfectly calibrated model lies on the diagonal.

    Args:
        bins: variant → bins of its diagram.
    """
    figure = Figure(figsize=(3.2 * len(bins), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(bins), sharey=True))
    for ax, (variant, of_variant) in zip(panels, bins.items(), strict=True):
        confidence, accuracy, images = np.array(of_variant).T
        ax.plot([0, 1], [0, 1], color="gray", linewidth=0.7, linestyle=":")
        ax.vlines(confidence, confidence, accuracy, color=ACCENT, alpha=0.4)  # the calibration error of each bin
        ax.scatter(confidence, accuracy, s=4 + 120 * images / images.sum(), color=ACCENT)
        ax.set_title(variant, fontsize=9)
        ax.set_xlabel("confidence")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy")
    return figure
