"""The sampling grid of θ and its description, against coordinates worked out without torch."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from stn.transforms import TRANSFORMS, Affine, Attention, Similarity


def pixel_centers(size: int) -> np.ndarray:
    """Centers of ``size`` pixels that share the interval [-1, 1] evenly: what align_corners=False means."""
    return (2 * np.arange(size) + 1) / size - 1


def similarity(scale: float, degrees: float, shift_x: float = 0.0, shift_y: float = 0.0) -> list[float]:
    """θ of a grid scaled, turned clockwise as displayed (y points down) and shifted."""
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return [cos, -sin, shift_x, sin, cos, shift_y]


def test_the_identity_grid_lies_on_pixel_centers():
    grid = Affine()(torch.tensor([Affine.identity]), 2, 4)
    x, y = [-0.75, -0.25, 0.25, 0.75], [-0.5, 0.5]
    torch.testing.assert_close(grid, torch.tensor([[[[column, row] for column in x] for row in y]]))


def test_a_rotated_grid_worked_out_by_hand():
    # 90 degrees clockwise and one pixel of four to the right: (x, y) -> (0.5 - y, x).
    grid = Affine()(torch.tensor([[0.0, -1.0, 0.5, 1.0, 0.0, 0.0]]), 2, 4)
    upper = [[1.0, -0.75], [1.0, -0.25], [1.0, 0.25], [1.0, 0.75]]
    lower = [[0.0, -0.75], [0.0, -0.25], [0.0, 0.25], [0.0, 0.75]]
    torch.testing.assert_close(grid, torch.tensor([[upper, lower]]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 5), (4, 7), (32, 9)])
def test_the_grid_is_theta_times_the_pixel_centers(height, width):
    theta = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, x = np.meshgrid(pixel_centers(height), pixel_centers(width), indexing="ij")
    expected = np.einsum("bij,hwj->bhwi", theta.numpy().reshape(3, 2, 3), np.stack([x, y, np.ones_like(x)], axis=-1))
    grid = Affine()(theta, height, width)
    assert grid.dtype == torch.float64  # double precision in, double precision out: gradcheck needs it
    np.testing.assert_allclose(grid.numpy(), expected, atol=1e-12)


def test_autocast_does_not_round_the_grid():
    theta = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    expected = Affine()(theta, 33, 47)
    with torch.autocast("cpu", torch.bfloat16):
        grid = Affine()(theta, 33, 47)
        of_bf16 = Affine()(theta.bfloat16(), 33, 47)
    assert grid.dtype == of_bf16.dtype == torch.float32
    assert torch.equal(grid, expected)
    # A localization network under autocast predicts bf16; from there on nothing more is lost.
    assert torch.equal(of_bf16, Affine()(theta.bfloat16().float(), 33, 47))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("degrees", [-170.0, -30.0, 0.0, 45.0, 135.0])
def test_describe_recovers_scale_rotation_and_shift(scale, degrees):
    described = Affine().describe(torch.tensor([similarity(scale, degrees, 0.25, -0.4)]), 8, 8)
    expected = {"scale": scale, "rotation": degrees, "shift_x": 0.25, "shift_y": -0.4, "determinant": scale**2}
    assert {name: described[name].item() for name in expected} == pytest.approx(expected, abs=1e-4)


def test_describe_takes_the_rotation_of_the_polar_decomposition():
    matrices = np.random.default_rng(0).normal(size=(200, 2, 2))
    matrices = matrices[np.linalg.det(matrices) > 0.01]
    theta = np.concatenate([matrices, np.zeros((len(matrices), 2, 1))], axis=2).reshape(-1, 6)
    described = Affine().describe(torch.tensor(theta), 4, 4)
    rotations = [scipy.linalg.polar(matrix)[0] for matrix in matrices]
    degrees = [math.degrees(math.atan2(rotation[1, 0], rotation[0, 0])) for rotation in rotations]
    np.testing.assert_allclose(described["rotation"].numpy(), degrees, atol=0.01)
    np.testing.assert_allclose(described["determinant"].numpy(), np.linalg.det(matrices), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("theta", "share"),
    [
        (Affine.identity, 0.0),
        ((1.0, 0.0, 1.0, 0.0, 1.0, 0.0), 1 / 2),  # shifted by half an image
        ((1.0, 0.0, 0.0, 0.0, 1.0, -0.5), 1 / 4),  # by a quarter, upward
        ((2.0, 0.0, 0.0, 0.0, 2.0, 0.0), 3 / 4),  # twice as wide and high
        ((1.0, 0.0, 1.0, 0.0, 1.0, 1.0), 3 / 4),  # a point outside in x and in y counts once
        ((1.0, 0.0, 5.0, 0.0, 1.0, 0.0), 1.0),
    ],
)
def test_describe_counts_the_points_outside(theta, share):
    assert Affine().describe(torch.tensor([theta]), 4, 8)["outside"].item() == share


def test_describe_shows_a_mirror_image_by_its_determinant():
    mirrored = torch.tensor([[-1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0.5, 0.0, 0.0, 0.0, -0.5, 0.0]])
    described = Affine().describe(mirrored, 4, 4)
    assert described["determinant"].tolist() == [-1.0, -0.25]
    assert described["scale"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("family", TRANSFORMS.values())
def test_every_family_starts_at_the_identity(family):
    theta = torch.tensor([family.identity]).repeat(3, 1)
    torch.testing.assert_close(family()(theta, 5, 7), Affine()(torch.tensor([Affine.identity]).repeat(3, 1), 5, 7))


def test_a_similarity_is_a_scaled_rotation_and_a_shift():
    matrix = similarity(1.3, 25, 0.2, -0.4)
    theta = torch.tensor([[matrix[0], matrix[3], 0.2, -0.4]])
    torch.testing.assert_close(Similarity.matrix(theta).flatten(1), torch.tensor([matrix]))
    torch.testing.assert_close(Similarity()(theta, 6, 4), Affine()(torch.tensor([matrix]), 6, 4))
    described = Similarity().describe(theta, 6, 4)
    assert described["scale"].item() == pytest.approx(1.3) and described["rotation"].item() == pytest.approx(25)


def test_attention_scales_both_axes_alike_and_shifts():
    theta = torch.tensor([[0.5, 0.25, -0.125]])
    assert Attention.matrix(theta).tolist() == [[[0.5, 0.0, 0.25], [0.0, 0.5, -0.125]]]


@pytest.mark.parametrize("family", TRANSFORMS.values())
def test_gradients_of_every_family(family):
    generator = torch.Generator().manual_seed(0)
    count = len(family.identity)
    theta = torch.tensor([family.identity]).double() + 0.1 * torch.randn(2, count, generator=generator).double()
    assert torch.autograd.gradcheck(lambda t: family()(t, 4, 5), (theta.requires_grad_(),))
