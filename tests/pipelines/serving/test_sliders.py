"""Motions of the page's sliders, and what a transformer that undoes all of a motion gets."""

import math

import numpy as np
import pytest
import torch

from pipelines.serving.sliders import SLIDERS, Motion, grid_lines, measure_path, motions_along, move
from stn import Affine, Parallel, Projective, ThinPlateSpline
from stn.distortions import sampling_matrix
from stn.transforms import Transform

SIZE = (9, 9)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_motions_of_an_image():
    pixels = noise(3, *SIZE)
    moved = move(pixels, [Motion(), Motion(rotation=90), Motion(shift_x=1 / 9), Motion(shift_y=-2 / 9)])
    np.testing.assert_array_equal(moved[0], pixels)
    np.testing.assert_array_equal(moved[1], np.rot90(pixels, -1, (1, 2)))  # clockwise
    np.testing.assert_array_equal(moved[2][:, :, 1:], pixels[:, :, :-1])
    np.testing.assert_array_equal(moved[3][:, :-2], pixels[:, 2:])
    assert not moved[2][:, :, 0].any() and not moved[3][:, -2:].any()


def test_perspective_makes_one_side_smaller():
    """A white square becomes a trapezoid that is narrow above for one sign, and below for the other."""
    pixels = np.zeros((1, 40, 40), dtype=np.uint8)
    pixels[:, 10:30, 10:30] = 255
    widths = (move(pixels, [Motion(perspective=0.5), Motion(perspective=-0.5)])[:, 0] > 127).sum(2)
    for width, narrow_above in zip(widths, (True, False), strict=True):
        rows = np.flatnonzero(width)
        assert (width[rows[2]] < width[rows[-3]]) == narrow_above


def test_noise_is_the_same_for_all_motions_and_of_the_given_strength():
    gray = np.full((1, 64, 64), 128, dtype=np.uint8)
    first, second, none = move(gray, [Motion(noise=0.1), Motion(noise=0.1), Motion()])
    np.testing.assert_array_equal(first, second)
    assert 0.09 < first.std() / 255 < 0.11 and none.std() == 0


def undoing(motions: list[Motion], transform: Transform) -> torch.Tensor:
    """θ of a transformer that undoes each motion completely: the inverse of its sampling map."""
    matrices = torch.eye(3).repeat(len(motions), 1, 1)
    for matrix, m in zip(matrices, motions, strict=True):
        numbers = torch.tensor([[math.radians(m.rotation)], [m.scale], [2 * m.shift_x], [2 * m.shift_y]])
        angle, scale, shift_x, shift_y = numbers
        matrix[:2] = sampling_matrix(angle, scale, shift_x, shift_y)[0]
        matrix[2, 1] = m.perspective
    inverse = torch.linalg.inv(matrices)
    inverse = inverse / inverse[:, 2:, 2:]
    if isinstance(transform, Projective):
        return inverse.flatten(1)[:, :8]
    if isinstance(transform, ThinPlateSpline):
        return Affine().map(inverse[:, :2].flatten(1), transform.centers_N2).flatten(1)
    theta = inverse[:, :2].flatten(1)
    return torch.cat((theta, theta), 1) if isinstance(transform, Parallel) else theta


@pytest.mark.parametrize("transform", [Affine(), Projective(), ThinPlateSpline(), Parallel(Affine(), 2)], ids=str)
@pytest.mark.parametrize("name", ["rotation", "scale", "shift_x", "shift_y"])
def test_a_transformer_that_undoes_a_motion_lies_on_the_diagonal(transform, name):
    slider = SLIDERS[name]
    path = measure_path(slider, transform, undoing(motions_along(Motion(), slider), transform), SIZE)
    assert path is not None and path.ideal == path.applied
    applied, undone = np.array(path.applied), np.array(path.undone)
    inner = np.abs(applied) < 180  # half a turn is the same in both directions
    np.testing.assert_allclose(undone[inner], applied[inner], atol=2e-3)


def test_perspective_is_undone_by_projective_transformers_alone():
    slider = SLIDERS["perspective"]
    motions = motions_along(Motion(), slider)
    path = measure_path(slider, Projective(), undoing(motions, Projective()), SIZE)
    assert path is not None
    np.testing.assert_allclose(path.undone, path.applied, atol=1e-5)
    affine = measure_path(slider, Affine(), torch.randn(len(motions), 6), SIZE)
    assert affine is not None and set(affine.undone) == {0.0}
    assert measure_path(slider, ThinPlateSpline(), torch.randn(len(motions), 32), SIZE) is None


@pytest.mark.parametrize("transform", [Affine(), Parallel(Affine(), 2)], ids=str)
def test_noise_that_moves_theta_is_shown_as_a_distance(transform):
    slider = SLIDERS["noise"]
    motions = motions_along(Motion(), slider)
    theta = torch.tensor(transform.identity).repeat(len(motions), 1)
    theta[:, 2::6] = torch.linspace(0, 1, len(motions))[:, None]  # shifts by up to half the image
    path = measure_path(slider, transform, theta, SIZE)
    assert path is not None and set(path.ideal) == {0.0}
    np.testing.assert_allclose(path.undone, np.linspace(0, 0.5, len(motions)), atol=1e-5)


def test_the_position_that_moves_nothing_lies_on_each_path():
    for slider in SLIDERS.values():
        positions = slider.positions()
        assert slider.still in positions and positions == sorted(set(positions))
        assert (positions[0], positions[-1]) == (slider.low, slider.high)
        for motion in motions_along(Motion(rotation=7), slider):
            Motion.model_validate(motion.model_dump())  # within the ends


@pytest.mark.parametrize("transform", [Affine(), Projective(), ThinPlateSpline(), Parallel(Affine(), 2)], ids=str)
def test_the_lines_of_the_identity_form_a_regular_grid(transform):
    lines = np.concatenate(grid_lines(transform, torch.tensor([transform.identity])))
    assert np.abs(lines).max() == 1
    on_lines = np.isclose(np.abs(lines * 4 - np.round(lines * 4)), 0, atol=1e-3).any(1)
    assert on_lines.all() and len(lines) >= 18 * 2 * transform.heads
