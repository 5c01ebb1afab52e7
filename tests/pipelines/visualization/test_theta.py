"""Figures of every kind of transformer: they show the input of its classifier."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.outputs.trained_models import ThetaHistory, Trained
from pipelines.visualization import theta as module
from pipelines.visualization.theta import MAX_COLUMNS, MAX_FRAMES, draw_theta, draw_theta_history
from stn.classifiers import build_network
from stn.settings import LocalizationSettings, NetworkSettings, TransformerSettings

META = DatasetMeta(
    dataset="mine", source="/data/mine", classes=["a", "b"], image_shape=(1, 20, 20),
    counts={"train": 5, "validation": 5, "test": 5}, mean=[0.5], std=[0.25], distortion={}, duplicates={}, broken={},
    digest="0",
)  # fmt: skip

KINDS = pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"transform": ("projective",), "output_size": (16, 16), "antialias": 2}, (16, 16)),
        ({"transform": ("tps",), "control_points": 3}, (20, 20)),
        (
            {"transform": ("attention",), "scale": 0.5, "parallel": 2, "output_size": (16, 16)},
            (32, 16),
        ),  # stacked vertically
        ({"transform": ("affine", "tps")}, (20, 20)),
        ({"transform": ("similarity",)}, (20, 20)),
    ],
)


def untrained_model(settings: dict[str, Any]) -> Trained:
    torch.manual_seed(0)
    localization = LocalizationSettings(channels=(3,), kernel_sizes=(3,), hidden=(4,))
    transformer = TransformerSettings(localization=localization, **settings)
    network = build_network(NetworkSettings((1, 20, 20), 2, transformer)).eval()
    no_record: Any = None
    return Trained("mine", 0, network, "run", [], no_record)


def test_class_names_with_dollar_signs_are_drawn_as_they_are():
    images = torch.randint(256, (2, 1, 20, 20), dtype=torch.uint8)
    meta = replace(META, classes=["us_$", r"$\frac$"])
    figures = draw_theta(untrained_model({"transform": ("affine",)}), meta, Labeled(images, torch.tensor([0, 1])), 2)
    for figure in figures:
        figure.savefig(io.BytesIO())
    titles = {axes.get_title() for figure in figures for axes in figure.axes}
    assert any("us_$" in title for title in titles) and any(r"$\frac$" in title for title in titles)


@pytest.mark.slow
@KINDS
def test_every_kind_of_transformer_has_its_figures(settings, size):
    model = untrained_model(settings)
    images = torch.randint(256, (5, 1, 20, 20), dtype=torch.uint8)
    figures = draw_theta(model, META, Labeled(images, torch.tensor([0, 1, 0, 1, 0])), examples=3)
    for figure in figures:
        figure.savefig(io.BytesIO())
    pixels = np.asarray(figures.grids.axes[3].images[0].get_array())  # below the first of three images
    assert pixels.shape == size
    transformer = model.network.transformer
    assert transformer is not None
    # Untrained: the rectified image is the center, the halves or all of the image itself.
    normalized = (images[:1].float() / 255 - 0.5) / 0.25
    expected = transformer.resample(normalized, transformer.theta(normalized)) * 0.25 * 255 + 0.5 * 255
    np.testing.assert_allclose(pixels, expected.detach()[0, 0].numpy(), atol=0.51)


@KINDS
@pytest.mark.parametrize("epochs", [1, 12, 500])
def test_the_history_of_every_kind_of_transformer_is_drawn(settings, size, epochs, monkeypatch):
    """Each frame shows the images rectified by the θ of its epoch, the first frame by the identity."""
    model = untrained_model(settings)
    transformer = model.network.transformer
    assert transformer is not None
    images = torch.randint(256, (5, 1, 20, 20), dtype=torch.uint8)
    watched = torch.tensor([4, 0, 2])
    start = torch.tensor(transformer.transform.identity)
    theta = start + 0.1 * torch.randn(epochs, 3, len(start))
    frames = []  # arguments of each call of draw_frame
    monkeypatch.setattr(module, "draw_frame", lambda *arguments: frames.append(arguments))
    labels = torch.tensor([0, 1, 0, 1, 1])
    filmstrip, _ = draw_theta_history(model, META, ThetaHistory(watched, theta), Labeled(images, labels))

    def expected(theta_of_epoch):
        normalized = (images[watched].float() / 255 - 0.5) / 0.25
        return transformer.resample(normalized, theta_of_epoch).detach() * 0.25 * 255 + 0.5 * 255

    assert len(frames) == min(MAX_FRAMES, epochs + 1)
    for inputs, rectified, grids, caption in frames:
        epoch = 0 if caption.startswith("before") else int(caption.split()[2])
        of_epoch = theta[epoch - 1] if epoch else start.expand(3, -1)
        assert torch.equal(inputs, images[watched].float())
        torch.testing.assert_close(rectified, expected(of_epoch), atol=1e-3, rtol=0)
        heads = transformer.transform.heads
        assert grids.shape == (3, heads, size[0] // heads, size[1], 2)
    assert frames[-1][-1] == f"after epoch {epochs} of {epochs}" and frames[0][-1] == "before the first epoch"
    (axes,) = filmstrip.axes
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns[:2] == ["input", "epoch 1"] and columns[-1] == f"epoch {epochs}"
    assert len(columns) <= 1 + MAX_COLUMNS
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a", "a"]
    filmstrip.savefig(io.BytesIO())
