"""Rectification of images by a predicted θ."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.serving.rectification import parse_theta, rectify
from stn import Affine, Parallel, Projective, Similarity, ThinPlateSpline

IDENTITY = np.array([[[1.0, 0, 0], [0, 1, 0]]])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def rectified(pixels: np.ndarray, theta: np.ndarray, mean: list[float], padding_mode: str) -> np.ndarray:
    return np.asarray(rectify(Image.fromarray(pixels), *parse_theta(theta), mean, padding_mode=padding_mode))


@pytest.mark.parametrize("shape", [(9, 9), (9, 7, 3)])
def test_the_identity_returns_the_image(shape):
    pixels = noise(*shape)
    mean = [0.5] * (1 if len(shape) == 2 else 3)
    np.testing.assert_array_equal(rectified(pixels, IDENTITY, mean, "zeros"), pixels)


def test_a_half_turn_and_the_padding():
    pixels = noise(6, 4, 3)
    np.testing.assert_array_equal(rectified(pixels, -IDENTITY, [0.5] * 3, "border"), pixels[::-1, ::-1])
    # At scale 4 the corners lie outside the image; zeros there is the mean that was subtracted.
    assert rectified(pixels, 4 * IDENTITY, [0.2, 0.4, 0.6], "zeros")[0, 0].tolist() == [51, 102, 153]


@pytest.mark.parametrize(
    "transform",
    [Affine(), Similarity(), Projective(), ThinPlateSpline(control_points=3), Parallel(Similarity(), 2)],
    ids=lambda transform: type(transform).__name__,
)
def test_the_family_is_inferred_from_the_shape_of_theta(transform):
    """The inferred transform gives the grid that the network sampled on."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor(transform.identity) + 0.1 * torch.randn(4, len(transform.identity), generator=generator)
    inferred, parameters = parse_theta(transform.readable(theta).numpy())
    torch.testing.assert_close(inferred(parameters, 6, 5), transform(theta, 6, 5))
