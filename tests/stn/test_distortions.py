"""Distortions: motion of the content, distribution of the draws, and their inverse as θ."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.ndimage import map_coordinates

from stn import Affine, SpatialTransformer
from stn.distortions import PROTOCOLS, Distortion, distort, make_distortion, sampling_matrix

SCIPY_MODES = {"zeros": "grid-constant", "border": "nearest", "reflection": "reflect"}


def matrix_of(degrees=0.0, scale=1.0, shift_x=0.0, shift_y=0.0, aspect=1.0) -> torch.Tensor:
    motion = torch.tensor([math.radians(degrees), scale, shift_x, shift_y], dtype=torch.float64)
    return sampling_matrix(motion[:1], motion[1:2], motion[2:3], motion[3:], aspect)


def forward_map(matrices: torch.Tensor) -> np.ndarray:
    """Invert sampling matrices: the motion of the content as 3×3 matrices, in units of half the image."""
    bottom = np.tile([[[0.0, 0.0, 1.0]]], (len(matrices), 1, 1))
    return np.linalg.inv(np.concatenate([matrices.double().numpy(), bottom], axis=1))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 50), (41, 13)])
def test_sampling_matrix_moves_pixels_as_documented(height, width):
    random = np.random.default_rng(height)
    for _ in range(20):
        degrees, scale = random.uniform(-180, 180), random.uniform(0.4, 2)
        shift_x, shift_y = random.uniform(-1, 1, 2)
        # In pixels from the center: rotate clockwise as displayed (y points down), then scale, then shift.
        source = random.uniform(-1, 1, 2) * (width / 2, height / 2)
        turned = complex(*source) * np.exp(1j * math.radians(degrees)) * scale
        target = turned + complex(shift_x * width / 2, shift_y * height / 2)
        looked_up = matrix_of(degrees, scale, shift_x, shift_y, width / height)[0].numpy() @ [
            target.real / (width / 2), target.imag / (height / 2), 1.0,
        ]  # fmt: skip
        np.testing.assert_allclose(looked_up * (width / 2, height / 2), source, atol=1e-4)


@pytest.mark.parametrize(
    ("parameters", "start", "end"),
    [
        ({"degrees": 90}, (4, 7), (7, 4)),  # clockwise: from the right of the center to below it
        ({"degrees": 90}, (1, 4), (4, 7)),  # from above it to the right
        ({"degrees": -90}, (4, 7), (1, 4)),
        ({"scale": 3}, (4, 5), (4, 7)),
        ({"scale": 0.5}, (6, 2), (5, 3)),
        ({"shift_x": 2 / 4.5}, (4, 4), (4, 6)),  # 2 of 9 pixels to the right
        ({"shift_y": 3 / 4.5}, (4, 4), (7, 4)),  # 3 of 9 down
        ({"degrees": 90, "scale": 3, "shift_x": -1 / 4.5}, (4, 5), (7, 3)),  # the shift is neither rotated nor scaled
    ],
)
def test_a_bright_pixel_moves_to_the_documented_position(parameters, start, end):
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[0, 0, *start] = 1
    moved = distort(image, matrix_of(**parameters), "zeros")[0, 0]
    assert divmod(int(moved.argmax()), 9) == end
    assert moved[end].item() == pytest.approx(1, abs=1e-6)


def test_a_rotation_is_rigid_on_an_image_that_is_not_square():
    image = torch.zeros(1, 1, 5, 9, dtype=torch.float64)
    image[0, 0, 2, 6] = 1  # two pixels to the right of the center
    moved = distort(image, matrix_of(90, aspect=9 / 5), "zeros")[0, 0]
    assert moved[4, 4].item() == pytest.approx(1, abs=1e-6)  # two pixels below it
    assert moved.sum().item() == pytest.approx(1, abs=1e-6)


def test_draws_are_uniform_and_independent():
    height, width, count = 20, 30, 4000
    distortion = Distortion(rotation=60, scale=(0.5, 1.5), shift=0.2)
    matrices = distortion.draw(count, height, width, torch.Generator().manual_seed(0))
    assert matrices.dtype == torch.float32
    forward = forward_map(matrices)
    # Direction and distance of the right-hand neighbor, in pixels, give angle and scale. The motion of the center gives
    # the shift.
    across = forward[:, :2, 0] * (width / 2, height / 2) / (width / 2)
    drawn = {
        "angle": (np.degrees(np.arctan2(across[:, 1], across[:, 0])), -60.0, 60.0),
        "scale": (np.hypot(across[:, 0], across[:, 1]), 0.5, 1.5),
        "shift_x": (forward[:, 0, 2] / 2, -0.2, 0.2),  # as a share of the image, 2 units wide
        "shift_y": (forward[:, 1, 2] / 2, -0.2, 0.2),
    }
    for name, (values, low, high) in drawn.items():
        assert values.min() >= low - 1e-4, name
        assert values.max() <= high + 1e-4, name
        assert scipy.stats.kstest(values, "uniform", args=(low, high - low)).pvalue > 0.01, name
    correlations = np.corrcoef([values for values, _, _ in drawn.values()])
    assert np.abs(correlations - np.eye(4)).max() < 0.06


def test_draws_depend_on_the_generator_only():
    distortion = Distortion(rotation=30, scale=(0.8, 1.0), shift=0.1)
    generator = torch.Generator().manual_seed(3)
    first, second = distortion.draw(5, 8, 8, generator), distortion.draw(5, 8, 8, generator)
    torch.manual_seed(99)  # the global generator has no effect
    assert torch.equal(distortion.draw(5, 8, 8, torch.Generator().manual_seed(3)), first)
    assert not torch.equal(first, second)


def test_no_distortion_is_the_identity():
    images = torch.rand(3, 2, 5, 8)
    drawn = Distortion().draw(3, 5, 8, torch.Generator().manual_seed(0))
    for padding_mode in SCIPY_MODES:
        torch.testing.assert_close(distort(images, drawn, padding_mode), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("distortion", "identity"),
    [
        (Distortion(), True),
        (Distortion(scale=[1, 1], padding_mode="border"), True),  # a list, as read from YAML
        (Distortion(rotation=1), False),
        (Distortion(scale=(1, 1.1)), False),
        (Distortion(scale=(0.9, 1)), False),
        (Distortion(shift=0.1), False),
    ],
)
def test_is_identity_is_true_only_if_nothing_can_change(distortion, identity):
    assert distortion.is_identity is identity


@pytest.mark.parametrize("padding_mode", SCIPY_MODES)
def test_distort_agrees_with_scipy(padding_mode):
    height, width = 11, 7
    images = torch.rand(4, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 255
    distortion = Distortion(rotation=80, scale=(0.5, 1.3), shift=0.3)
    matrices = distortion.draw(4, height, width, torch.Generator().manual_seed(1)).double()
    distorted = distort(images, matrices, padding_mode)
    y, x = np.meshgrid((2 * np.arange(height) + 1) / height - 1, (2 * np.arange(width) + 1) / width - 1, indexing="ij")
    for b in range(4):
        source_x, source_y = np.einsum("ij,jhw->ihw", matrices[b].numpy(), np.stack([x, y, np.ones_like(x)]))
        at = [((source_y + 1) * height - 1) / 2, ((source_x + 1) * width - 1) / 2]
        for channel in range(2):
            expected = map_coordinates(images[b, channel].numpy(), at, order=1, mode=SCIPY_MODES[padding_mode])
            np.testing.assert_allclose(distorted[b, channel].numpy(), expected, atol=1e-8)


def test_theta_undoes_a_distortion_in_the_interior():
    size = 24
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = torch.stack([x + 3.0 * y, 40.0 - 2 * x])[None].double()  # linear, so that bilinear sampling is exact
    matrix = matrix_of(degrees=30, scale=0.8, shift_x=0.1, shift_y=-0.05)
    theta = torch.from_numpy(forward_map(matrix)[:, :2].reshape(1, 6))
    undo = SpatialTransformer(torch.nn.Identity())

    distorted = distort(images, matrix, "zeros")
    restored = undo.warp(distorted, theta)
    interior = undo.warp(distort(torch.ones_like(images), matrix, "zeros"), theta) > 1 - 1e-6
    assert interior.double().mean() > 0.5
    assert (distorted - images)[interior].abs().mean() > 1
    torch.testing.assert_close(restored[interior], images[interior], atol=1e-3, rtol=0)
    # The grid that undoes a rotation and a scaling has the same rotation and scale.
    described = Affine().describe(theta, size, size)
    assert described["rotation"].item() == pytest.approx(30, abs=1e-3)
    assert described["scale"].item() == pytest.approx(0.8, abs=1e-5)
    assert (described["shift_x"].item(), described["shift_y"].item()) == pytest.approx((0.1, -0.05), abs=1e-5)


def test_a_shrunk_distortion_has_its_share_of_each_angle_change_of_size_and_shift():
    whole = Distortion(rotation=60, scale=(0.5, 1.3), shift=0.3)
    found = []
    for distortion in (whole, whole.shrunk(0.25), whole.shrunk(1)):
        motions = forward_map(distortion.draw(50, 20, 20, torch.Generator().manual_seed(0)))
        angles = np.arctan2(motions[:, 1, 0], motions[:, 0, 0])
        found.append(np.stack([angles, np.linalg.det(motions) ** 0.5 - 1, motions[:, 0, 2], motions[:, 1, 2]]))
    full, quarter, same = found
    np.testing.assert_allclose(quarter, full / 4, atol=1e-5)
    np.testing.assert_allclose(same, full, atol=1e-6)
    assert (np.abs(full).max(1) > 0.2).all()


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_nothing_of_a_protocol_is_left_at_the_share_0(protocol):
    generator = torch.Generator().manual_seed(0)
    images, whole = torch.rand(8, 1, 30, 30, generator=generator), make_distortion(protocol)
    for distortion, same in ((whole.shrunk(0), True), (whole, False)):
        moved = distort(images, distortion.draw(8, 30, 30, generator), "border")
        assert torch.allclose(moved, images, atol=1e-4) == same


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_on_a_canvas_a_shrunk_distortion_stays_near_the_middle(share):
    whole = Distortion(rotation=1e-6, scale=(0.7, 1.2), canvas=1.5)
    motions = forward_map(whole.shrunk(share).draw(2000, 42, 42, torch.Generator().manual_seed(0)))
    room = 1 - np.linalg.det(motions) ** 0.5 / 1.5
    placed = np.abs(motions[:, :2, 2]) / room[:, None]
    assert share - 0.02 < placed.max() < share + 1e-4
