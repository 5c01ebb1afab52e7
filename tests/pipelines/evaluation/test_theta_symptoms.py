"""Symptoms of trouble in θ on the test images, for transformers whose θ is known."""

import pytest
import torch
from torch import Tensor, nn

from pipelines.evaluation.theta_symptoms import measure_symptoms
from stn.classifiers import Network
from stn.composition import Parallel
from stn.spatial_transformer import SpatialTransformer
from stn.theta_trouble import Symptoms, Trouble
from stn.transforms import Affine, Transform

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
IDENTITY = torch.tensor(Affine.identity).repeat(6, 1)
BESIDE = torch.tensor([1.0, 0, 9, 0, 1, 9]).repeat(6, 1)


class Given(nn.Module):
    def __init__(self, theta: Tensor):
        super().__init__()
        self.theta = theta

    def forward(self, images: Tensor) -> Tensor:
        return self.theta[: len(images)]


def symptoms(theta: Tensor, transform: Transform, output_size: tuple[int, int] | None = None) -> Symptoms:
    transformer = SpatialTransformer(Given(theta), transform=transform, output_size=output_size)
    found = measure_symptoms(Network(nn.Identity(), transformer), theta, IMAGES[:4])
    assert found is not None
    return found


@pytest.mark.parametrize("output_size", [None, (4, 4)])
def test_each_symptom_is_measured(output_size):
    assert symptoms(IDENTITY, Affine(), output_size) == Symptoms(0, 0, 0, 0)
    assert symptoms(BESIDE, Affine(), output_size) == Symptoms(1, 0, 1, 0)
    half = IDENTITY.clone()
    half[:3, 2], half[:3, 0] = 1.0, -1.0  # mirrored, and half of the grid outside
    assert symptoms(half, Affine(), output_size) == pytest.approx(Symptoms(0.25, 0.5, 0, 1.0))


def test_the_worst_head_counts():
    found = symptoms(torch.cat((IDENTITY, BESIDE), 1), Parallel(Affine(), 2))
    assert (found.outside, found.one_color) == (1, 1)
    assert set(found.trouble) == {Trouble.OUTSIDE, Trouble.ONE_COLOR, Trouble.CONSTANT}


def test_without_a_transformer_there_are_none():
    assert measure_symptoms(Network(nn.Identity()), None, IMAGES) is None
