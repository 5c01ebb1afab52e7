"""Warped pixels, compared with OpenCV, which maps pixel indices instead of coordinates in [-1, 1]."""

import cv2
import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import nn

from stn import Affine, Projective, SpatialTransformer, ThinPlateSpline
from stn.transforms import Transform

SOURCE = (24, 31)
SIZES = [SOURCE, (18, 20), (40, 13)]  # of the output: equal, smaller, taller and narrower
PADDING = {"zeros": cv2.BORDER_CONSTANT, "border": cv2.BORDER_REPLICATE, "reflection": cv2.BORDER_REFLECT}


def smooth_image(height: int, width: int) -> np.ndarray:
    """Make a smooth random image with values in [0.5, 1], so that it differs from the zeros outside."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((height, width)).astype(np.float32), (0, 0), 1.5)
    return 0.5 + (noise - noise.min()) / (noise.max() - noise.min()) / 2


def to_pixels(height: int, width: int) -> np.ndarray:
    """Return the matrix from coordinates in [-1, 1] to pixel indices, which are integers at pixel centers."""
    return np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])


def warp(image: np.ndarray, transform: Transform, theta, size: tuple[int, int], padding_mode: str) -> np.ndarray:
    transformer = SpatialTransformer(nn.Identity(), padding_mode, transform, output_size=size)
    theta_1P = torch.tensor(np.asarray(theta), dtype=torch.float32).reshape(1, -1)
    return transformer.warp(torch.from_numpy(image)[None, None], theta_1P)[0, 0].numpy()


def assert_same(warped: np.ndarray, expected: np.ndarray, image: np.ndarray) -> None:
    np.testing.assert_allclose(warped, expected, atol=1e-4)
    assert warped.shape != image.shape or np.abs(warped - image).mean() > 0.03  # the image changed


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", SIZES)
def test_an_affine_warp_equals_opencvs(size, padding_mode):
    image, theta = smooth_image(*SOURCE), np.array([[0.8, -0.3, 0.1], [0.25, 0.9, -0.2]])
    between_pixels = to_pixels(*SOURCE) @ np.vstack((theta, [0, 0, 1])) @ np.linalg.inv(to_pixels(*size))
    expected = cv2.warpAffine(
        image, between_pixels[:2], size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=PADDING[padding_mode],
    )  # fmt: skip
    assert_same(warp(image, Affine(), theta, size, padding_mode), expected, image)


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", SIZES)
def test_a_homography_equals_opencvs(size, padding_mode):
    image, matrix = smooth_image(*SOURCE), np.array([[0.8, -0.3, 0.1], [0.25, 0.9, -0.2], [0.2, -0.3, 1]])
    between_pixels = to_pixels(*SOURCE) @ matrix @ np.linalg.inv(to_pixels(*size))
    expected = cv2.warpPerspective(
        image, between_pixels, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=PADDING[padding_mode],
    )  # fmt: skip
    assert_same(warp(image, Projective(), matrix.ravel()[:8], size, padding_mode), expected, image)


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", SIZES)
def test_a_thin_plate_spline_equals_scipys_sampled_by_opencv(size, padding_mode):
    """OpenCV's Python package has no splines: SciPy computes the positions and OpenCV samples them."""
    image, spline = smooth_image(*SOURCE), ThinPlateSpline()
    at_start = np.array(spline.identity).reshape(-1, 2)
    placed = at_start + np.random.default_rng(1).normal(scale=0.15, size=at_start.shape)
    rows, columns = np.indices(size)
    targets = np.stack(((2 * columns + 1) / size[1] - 1, (2 * rows + 1) / size[0] - 1), -1).reshape(-1, 2)
    looked_up = RBFInterpolator(at_start, placed, kernel="thin_plate_spline", degree=1)(targets)
    in_pixels = (to_pixels(*SOURCE) @ np.column_stack((looked_up, np.ones(len(looked_up)))).T)[:2]
    x, y = in_pixels.reshape(2, *size).astype(np.float32)
    expected = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=PADDING[padding_mode])
    assert_same(warp(image, spline, placed, size, padding_mode), expected, image)


def test_a_homography_there_and_back_returns_the_interior():
    image = smooth_image(*SOURCE)
    matrix = np.array([[0.9, -0.2, 0.05], [0.15, 0.9, -0.1], [0.1, -0.15, 1]])
    back = np.linalg.inv(matrix)
    there = warp(image, Projective(), matrix.ravel()[:8], SOURCE, "border")
    again = warp(there, Projective(), (back / back[2, 2]).ravel()[:8], SOURCE, "border")
    assert np.abs(there - image)[6:-6, 6:-6].mean() > 0.03
    assert np.abs(again - image)[6:-6, 6:-6].mean() < 0.01  # resampled twice: blurred, but not moved


@pytest.mark.parametrize("times", [2, 3])
def test_antialiased_output_equals_opencvs_area_average(times):
    """At the identity the n×n samples of an output pixel lie on pixel centers, and their mean is the area average."""
    image = np.random.default_rng(0).random((24, 36)).astype(np.float32)
    size = (24 // times, 36 // times)
    transformer = SpatialTransformer(nn.Identity(), output_size=size, antialias=times)
    shrunk = transformer.warp(torch.from_numpy(image)[None, None], torch.tensor([Affine.identity]))[0, 0].numpy()
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(shrunk, expected, atol=1e-5)
    aliased = SpatialTransformer(nn.Identity(), output_size=size)
    bare = aliased.warp(torch.from_numpy(image)[None, None], torch.tensor([Affine.identity]))[0, 0].numpy()
    # At half size a bilinear sample is already the mean of four pixels.
    assert times == 2 or np.abs(bare - expected).max() > 0.1
