"""Figures of transformers inside a network: their grids are drawn on the input of the classifier."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.outputs.trained_models import Trained
from pipelines.visualization.inner_theta import draw_inner_theta
from stn.classifiers import build_network
from stn.settings import LocalizationSettings, NetworkSettings, TransformerSettings

META = DatasetMeta(
    dataset="mine", source="/data/mine", classes=["a", "b"], image_shape=(1, 24, 24),
    counts={"train": 5, "validation": 5, "test": 5}, mean=[0.5], std=[0.25], distortion={}, duplicates={}, broken={},
    digest="0",
)  # fmt: skip
TEST = Labeled(
    torch.randint(256, (5, 1, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(5) % 2,
)  # fmt: skip
EXAMPLES = 3


def model(*places: str, front: bool = False) -> Trained:
    torch.manual_seed(0)
    settings = TransformerSettings(localization=LocalizationSettings(channels=(), kernel_sizes=(), hidden=(8,)))
    inner = dict.fromkeys(places, settings)
    network = build_network(NetworkSettings((1, 24, 24), 2, settings if front else None, inner=inner)).eval()
    no_record: Any = None
    return Trained("mine", 0, network, "run", [], no_record)


def shifted(image: torch.Tensor, shift: float) -> torch.Tensor:
    """An image (B, 1, H, W), sampled ``shift`` half images further to the right."""
    theta = torch.tensor([[1.0, 0, shift], [0, 1, 0]]).expand(len(image), 2, 3)
    return F.grid_sample(image, F.affine_grid(theta, list(image.shape), align_corners=False), align_corners=False)


def shift_by(trained: Trained, place: str, shift: float) -> None:
    localization: Any = trained.network.transformers[place].localization
    with torch.no_grad():
        localization.head[-1].bias[2] += shift


def pictures(figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()).squeeze() for axes in figure.axes if axes.images]


@pytest.mark.parametrize("front", [False, True])
def test_an_image_stands_above_what_its_grid_samples(front):
    trained = model("conv2", front=front)
    shift_by(trained, "conv2", 0.5)
    if front:
        shift_by(trained, "input", -0.25)
    figures = draw_inner_theta(trained, META, TEST, EXAMPLES)
    assert figures.keys() == {"theta-conv2", "grids-conv2"}
    normalized = (TEST.images[:EXAMPLES].float() / 255 - 0.5) / 0.25
    seen = shifted(normalized, -0.25) if front else normalized
    drawn = pictures(figures["grids-conv2"])
    assert len(drawn) == 2 * EXAMPLES
    for pixels, expected in zip(drawn, torch.cat((seen, shifted(seen, 0.5))), strict=True):
        exact = (expected[0] * 0.25 + 0.5).clamp(0, 1) * 255
        assert np.abs(pixels - exact.numpy()).max() <= 1


def test_each_place_has_figures_and_a_network_without_inner_transformers_none():
    assert draw_inner_theta(model("conv1", "relu1"), META, TEST, 1).keys() == {
        "theta-conv1", "grids-conv1", "theta-relu1", "grids-relu1",
    }  # fmt: skip
    assert draw_inner_theta(model(front=True), META, TEST, 1) == {}
