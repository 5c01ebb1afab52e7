"""Charts: the tests check the drawn bars, lines, dots and labels."""

import io

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from scipy import stats

from pipelines.outputs.alignment_results import UndoneCurve
from pipelines.outputs.evaluation_results import ReliabilityBin
from pipelines.outputs.motions import MOTIONS, ROTATION, UNDONE_MOTIONS, Motion
from pipelines.visualization.charts import (
    MeanCurve,
    draw_learning_curves,
    draw_reliability,
    draw_robustness,
    draw_theta_distributions,
    draw_undone,
    draw_undone_by_epoch,
    mean_curve,
)
from stn import Affine, Parallel


def test_distributions_of_parallel_heads_have_units():
    described = Parallel(Affine(), 2).describe(torch.tensor([Affine.identity * 2] * 5), 4, 4)
    figure = draw_theta_distributions(described)
    labels = {axes.get_title().split(":")[0]: axes.get_xlabel() for axes in figure.axes}
    assert labels["rotation_1"] == labels["rotation_2"] == "degrees"
    assert labels["shift_x_2"] == "half images" and labels["scale_1"] == ""


def test_distributions_count_every_image_and_show_mean_and_standard_deviation():
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor(Affine.identity) + 0.2 * torch.randn(300, 6, generator=generator)
    described = Affine().describe(theta, 8, 8) | {"seventh": torch.linspace(0, 1, 300)}
    figure = draw_theta_distributions(described)
    figure.savefig(io.BytesIO())
    for axes, (name, values) in zip(figure.axes, described.items(), strict=False):
        counts, edges = np.histogram(values.numpy(), bins=len(axes.patches))
        assert [bar.get_height() for bar in axes.patches] == counts.tolist()  # pyright: ignore
        assert axes.patches[0].get_x() == pytest.approx(edges[0], abs=1e-5)  # pyright: ignore
        assert sum(counts) == 300
        mean, std = np.mean(values.numpy()), np.std(values.numpy(), ddof=1)
        assert axes.get_title() == f"{name}: mean {mean:.3g}, std {std:.3g}"
    assert [axes.get_xlabel() for axes in figure.axes[1:4]] == ["degrees", "half images", "half images"]
    assert [axes.axison for axes in figure.axes] == [True] * 7 + [False] * 2  # nine panels for seven quantities


@pytest.mark.parametrize(
    "values",
    [
        torch.full((20,), 0.3),
        torch.tensor([1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()] * 10),
        torch.tensor([torch.nan] * 20),
        torch.tensor([0.0, torch.inf, torch.nan, 1.0]),
        torch.tensor([5.0]),
    ],
    ids=["constant", "two neighbors", "nan", "some not finite", "one image"],
)
def test_degenerate_theta_is_drawn(values):
    figure = draw_theta_distributions({"scale": values})
    figure.savefig(io.BytesIO())
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == values.isfinite().sum()  # pyright: ignore


def test_learning_curves_have_one_line_per_seed_and_one_color_per_variant():
    histories = {
        "plain": [[{"epoch": epoch, "loss": seed + 1 / epoch} for epoch in (1, 2, 3)] for seed in range(2)],
        "stn": [[{"epoch": epoch, "loss": 5.0 - epoch} for epoch in (1, 2)]],  # a shorter training
    }
    figure = draw_learning_curves(histories, "loss", "cross-entropy")
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    drawn = [(line.get_color(), np.asarray(line.get_xydata()).tolist()) for line in axes.lines]
    runs = [(variant, run) for variant, runs in histories.items() for run in runs]
    assert [points for _, points in drawn] == [[[e["epoch"], e["loss"]] for e in run] for _, run in runs]
    colors = {variant: {color for (color, _), (name, _) in zip(drawn, runs, strict=True) if name == variant}
              for variant in histories}  # fmt: skip
    assert [len(of_variant) for of_variant in colors.values()] == [1, 1]
    assert colors["plain"] != colors["stn"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "stn"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "cross-entropy")


def test_robustness_has_one_panel_per_motion_and_an_interval_for_several_seeds():
    rotation, scale = Motion("rotation", (-90.0, 0.0, 90.0), "°", 0.0), Motion("scale", (0.5, 1.0, 1.5), "×", 1.0)
    no_interval = np.full(3, np.nan)
    single_seed = MeanCurve(np.array([0.3, 0.9, 0.4]), no_interval, no_interval)
    spread = MeanCurve(np.array([0.5, 0.9, 0.6]), np.array([0.4, 0.8, 0.5]), np.array([0.6, 1.0, 0.7]))
    figure = draw_robustness({rotation: {"plain": single_seed, "stn": spread}, scale: {"plain": single_seed}})
    figure.savefig(io.BytesIO())
    left, right = figure.axes
    *curves, still = left.lines
    assert [np.asarray(line.get_xydata()).tolist() for line in curves] == [
        [[-90, 0.3], [0, 0.9], [90, 0.4]],
        [[-90, 0.5], [0, 0.9], [90, 0.6]],
    ]
    assert (left.get_xlabel(), right.get_xlabel()) == ("rotation -90 to 90 °", "scale 0.5 to 1.5 ×")
    assert [np.asarray(line.get_xdata()).tolist() for line in (still, right.lines[-1])] == [[0.0, 0.0], [1.0, 1.0]]
    heights = [np.asarray(path.vertices)[:, 1] for band in left.collections for path in band.get_paths()]
    assert [(of_band.min(), of_band.max()) for of_band in heights if len(of_band)] == [(0.4, 1.0)]


def test_undone_motions_are_drawn_beside_the_diagonal():
    rotation = Motion("rotation", (-30.0, 0.0, 30.0), "°", 0.0)
    curve = UndoneCurve(np.array([-15.0, 0.0, 15.0]), np.array([-20.0, 0.0, 10.0]), np.array([-10.0, 0.0, 20.0]))
    figure = draw_undone({rotation: {"stn": curve}})
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    diagonal, nothing, undone = (np.asarray(line.get_ydata()).tolist() for line in axes.lines)
    assert (diagonal, nothing, undone) == ([-30, 0, 30], [0, 0], [-15, 0, 15])
    assert axes.get_xlabel() == "applied rotation -30 to 30 °"


def test_what_is_undone_by_epoch_has_one_panel_per_motion_and_one_line_per_seed():
    names = [f"theta_undone_{motion.name}" for motion in UNDONE_MOTIONS]
    histories = {
        variant: [
            [{"epoch": e, **{name: float(seed + i) for i, name in enumerate(names)}} for e in (1.0, 2.0)]
            for seed in (0, 1)
        ]
        for variant in ("stn", "tuned")
    }
    figure = draw_undone_by_epoch(histories)
    figure.savefig(io.BytesIO())
    assert [axes.get_title() for axes in figure.axes] == ["rotation", "scale", "shift"]
    for i, axes in enumerate(figure.axes):
        *lines, nothing, everything = axes.lines
        drawn = [np.asarray(line.get_ydata()).tolist() for line in axes.lines]
        assert drawn[:-2] == [[i, i], [i + 1, i + 1]] * 2
        assert len({line.get_color() for line in lines}) == 2 and axes.get_ylim() == (-0.5, 1.5)
        assert drawn[-2:] == [[0, 0], [1, 1]] and nothing.get_color() == everything.get_color() == "gray"


def test_the_interval_of_a_mean_curve_is_the_t_interval():
    curves = np.random.default_rng(0).random((4, len(ROTATION.amounts)))
    found = mean_curve(curves)
    low, high = stats.ttest_1samp(curves, 0, axis=0).confidence_interval(0.95)
    np.testing.assert_allclose(found.mean, curves.mean(0))
    np.testing.assert_allclose((found.low, found.high), (low, high))


def test_a_mean_curve_of_one_seed_has_no_interval():
    found = mean_curve(np.full((1, len(MOTIONS[1].amounts)), 0.5))
    assert (found.mean == 0.5).all() and np.isnan(found.low).all() and np.isnan(found.high).all()


def test_a_reliability_diagram_shows_each_bin_with_its_number_of_images():
    bins = {
        "plain": [ReliabilityBin(0.4, 0.5, 10), ReliabilityBin(0.9, 0.7, 30)],
        "stn": [ReliabilityBin(0.8, 0.8, 5)],
    }
    figure = draw_reliability(bins)
    figure.savefig(io.BytesIO())
    for axes, (variant, of_variant) in zip(figure.axes, bins.items(), strict=True):
        expected = np.array(of_variant)
        (dots,) = (drawn for drawn in axes.collections if isinstance(drawn, PathCollection))
        np.testing.assert_allclose(np.asarray(dots.get_offsets()), expected[:, :2])
        assert np.argsort(dots.get_sizes()).tolist() == np.argsort(expected[:, 2]).tolist()
        assert axes.get_title() == variant
