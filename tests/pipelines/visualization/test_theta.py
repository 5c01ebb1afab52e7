"""visualize: the figures of every kind of transformer show what its classifier sees."""

import io

import numpy as np
import pytest
import torch

from pipelines.outputs.prepared_data import Labeled
from pipelines.outputs.trained_models import ThetaHistory, Trained
from pipelines.visualization import theta as module
from pipelines.visualization.theta import FRAMES, film, theta_figures
from stn import build_network

META = {"mean": [0.5], "std": [0.25], "classes": ["a", "b"]}

KINDS = pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"transform": "projective", "output_size": 16, "antialias": 2}, (16, 16)),
        ({"transform": "tps", "control_points": 3}, (20, 20)),
        ({"transform": "attention", "scale": 0.5, "parallel": 2, "output_size": 16}, (32, 16)),  # one above the other
        ({"transform": ["affine", "tps"]}, (20, 20)),
        ({"transform": "similarity"}, (20, 20)),
    ],
)


def model_of(settings: dict) -> Trained:
    """Untrained."""
    torch.manual_seed(0)
    localization = {"channels": [3], "kernel_sizes": [3], "hidden": 4}
    network = build_network((1, 20, 20), 2, {"localization": localization} | settings).eval()
    return Trained("mine", 0, network, "run", [], {})


@KINDS
def test_every_kind_of_transformer_has_its_figures(settings, size):
    model = model_of(settings)
    images = torch.randint(256, (5, 1, 20, 20), dtype=torch.uint8)
    figures = theta_figures(model, META, images, torch.tensor([0, 1, 0, 1, 0]), examples=3)
    assert figures.keys() == {"rectified", "grids", "worst", "theta"}
    for figure in figures.values():
        figure.savefig(io.BytesIO())
    pixels = np.asarray(figures["grids"].axes[3].images[0].get_array())  # below the first of three
    assert pixels.shape == size
    transformer = model.network.transformer
    assert transformer is not None
    # Untrained, so the pixels shown are those of the image itself: of its middle, its halves, or all of it.
    normalized = (images[:1].float() / 255 - 0.5) / 0.25
    expected = transformer.resample(normalized, transformer.theta(normalized)) * 0.25 * 255 + 0.5 * 255
    np.testing.assert_allclose(pixels, expected.detach()[0, 0].numpy(), atol=0.51)


@KINDS
@pytest.mark.parametrize("epochs", [1, 12, 500])
def test_every_kind_of_transformer_has_its_film(settings, size, epochs, monkeypatch):
    """Each epoch's images are those of that epoch's θ; the animation begins with the images as they start."""
    model = model_of(settings)
    transformer = model.network.transformer
    assert transformer is not None
    images = torch.randint(256, (5, 1, 20, 20), dtype=torch.uint8)
    watched = torch.tensor([4, 0, 2])
    start = torch.tensor(transformer.transform.identity)
    theta = start + 0.1 * torch.randn(epochs, 3, len(start))
    shown = []  # of each frame, what is told of it and what it is made from
    monkeypatch.setattr(module, "frame", lambda *arguments: shown.append(arguments))
    labels = torch.tensor([0, 1, 0, 1, 1])
    strip, _ = film(model, META, ThetaHistory(watched, theta), Labeled(images, labels))

    def expected(theta_of_epoch):
        normalized = (images[watched].float() / 255 - 0.5) / 0.25
        return transformer.resample(normalized, theta_of_epoch).detach() * 0.25 * 255 + 0.5 * 255

    assert len(shown) == min(FRAMES, epochs + 1)
    for inputs, rectified, grids, caption in shown:
        epoch = 0 if caption.startswith("before") else int(caption.split()[2])
        of_epoch = theta[epoch - 1] if epoch else start.expand(3, -1)
        assert torch.equal(inputs, images[watched].float())
        torch.testing.assert_close(rectified, expected(of_epoch), atol=1e-3, rtol=0)
        heads = transformer.transform.heads
        assert grids.shape == (3, heads, size[0] // heads, size[1], 2)
    assert shown[-1][-1] == f"after epoch {epochs} of {epochs}" and shown[0][-1] == "before the first epoch"
    (axes,) = strip.axes
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns[:2] == ["input", "epoch 1"] and columns[-1] == f"epoch {epochs}" and len(columns) <= 8
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a", "a"]
    strip.savefig(io.BytesIO())
