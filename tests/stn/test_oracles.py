"""Warped pixels against OpenCV's, which knows nothing of grids from -1 to 1: it takes maps between pixel indices."""

import cv2
import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import nn

from stn import Affine, Projective, SpatialTransformer, ThinPlateSpline
from stn.transforms import Transform

SOURCE = (24, 31)
SIZES = [SOURCE, (18, 20), (40, 13)]  # of the output: the same, smaller, higher and narrower
PADDING = {"zeros": cv2.BORDER_CONSTANT, "border": cv2.BORDER_REPLICATE, "reflection": cv2.BORDER_REFLECT}


def smooth_image(height: int, width: int) -> np.ndarray:
    """Random, in [0, 1], and brightest where it meets the border of the image: what lies outside must be told apart."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((height, width)).astype(np.float32), (0, 0), 1.5)
    return 0.5 + (noise - noise.min()) / (noise.max() - noise.min()) / 2


def to_pixels(height: int, width: int) -> np.ndarray:
    """From coordinates in which the image spans [-1, 1] to pixel indices, whose centers are whole numbers."""
    return np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])


def ours(image: np.ndarray, transform: Transform, theta, size: tuple[int, int], padding_mode: str) -> np.ndarray:
    transformer = SpatialTransformer(nn.Identity(), padding_mode, transform, output_size=size)
    theta_1P = torch.tensor(np.asarray(theta), dtype=torch.float32).reshape(1, -1)
    return transformer.warp(torch.from_numpy(image)[None, None], theta_1P)[0, 0].numpy()


def assert_same(warped: np.ndarray, expected: np.ndarray, image: np.ndarray) -> None:
    np.testing.assert_allclose(warped, expected, atol=1e-4)
    assert warped.shape != image.shape or np.abs(warped - image).mean() > 0.03  # it did move


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", SIZES)
def test_an_affine_warp_is_opencvs(size, padding_mode):
    image, theta = smooth_image(*SOURCE), np.array([[0.8, -0.3, 0.1], [0.25, 0.9, -0.2]])
    between_pixels = to_pixels(*SOURCE) @ np.vstack((theta, [0, 0, 1])) @ np.linalg.inv(to_pixels(*size))
    expected = cv2.warpAffine(
        image, between_pixels[:2], size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=PADDING[padding_mode],
    )  # fmt: skip
    assert_same(ours(image, Affine(), theta, size, padding_mode), expected, image)


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", SIZES)
def test_a_homography_is_opencvs(size, padding_mode):
    image, matrix = smooth_image(*SOURCE), np.array([[0.8, -0.3, 0.1], [0.25, 0.9, -0.2], [0.2, -0.3, 1]])
    between_pixels = to_pixels(*SOURCE) @ matrix @ np.linalg.inv(to_pixels(*size))
    expected = cv2.warpPerspective(
        image, between_pixels, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=PADDING[padding_mode],
    )  # fmt: skip
    assert_same(ours(image, Projective(), matrix.ravel()[:8], size, padding_mode), expected, image)


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", SIZES)
def test_a_thin_plate_spline_is_scipys_sampled_by_opencv(size, padding_mode):
    """OpenCV's own splines are not in its Python package; SciPy's say where, OpenCV samples there."""
    image, spline = smooth_image(*SOURCE), ThinPlateSpline()
    at_start = np.array(spline.identity).reshape(-1, 2)
    placed = at_start + np.random.default_rng(1).normal(scale=0.15, size=at_start.shape)
    rows, columns = np.indices(size)
    targets = np.stack(((2 * columns + 1) / size[1] - 1, (2 * rows + 1) / size[0] - 1), -1).reshape(-1, 2)
    looked_up = RBFInterpolator(at_start, placed, kernel="thin_plate_spline", degree=1)(targets)
    in_pixels = (to_pixels(*SOURCE) @ np.column_stack((looked_up, np.ones(len(looked_up)))).T)[:2]
    x, y = in_pixels.reshape(2, *size).astype(np.float32)
    expected = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=PADDING[padding_mode])
    assert_same(ours(image, spline, placed, size, padding_mode), expected, image)


def test_a_homography_there_and_back_returns_the_interior():
    image = smooth_image(*SOURCE)
    matrix = np.array([[0.9, -0.2, 0.05], [0.15, 0.9, -0.1], [0.1, -0.15, 1]])
    back = np.linalg.inv(matrix)
    there = ours(image, Projective(), matrix.ravel()[:8], SOURCE, "border")
    again = ours(there, Projective(), (back / back[2, 2]).ravel()[:8], SOURCE, "border")
    assert np.abs(there - image)[6:-6, 6:-6].mean() > 0.03
    assert np.abs(again - image)[6:-6, 6:-6].mean() < 0.01  # twice resampled: blurred, but in place


@pytest.mark.parametrize("times", [2, 3])
def test_antialiased_output_is_opencvs_area_average(times):
    """At the identity a mean of n×n samples, each on a pixel's center, is what shrinking by area is."""
    image = np.random.default_rng(0).random((24, 36)).astype(np.float32)
    size = (24 // times, 36 // times)
    transformer = SpatialTransformer(nn.Identity(), output_size=size, antialias=times)
    shrunk = transformer.warp(torch.from_numpy(image)[None, None], torch.tensor([Affine.identity]))[0, 0].numpy()
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(shrunk, expected, atol=1e-5)
    aliased = SpatialTransformer(nn.Identity(), output_size=size)
    bare = aliased.warp(torch.from_numpy(image)[None, None], torch.tensor([Affine.identity]))[0, 0].numpy()
    assert times == 2 or np.abs(bare - expected).max() > 0.1  # halved, a bilinear sample is the mean of four
