"""The distortions of the paper: distributions of the draws, and pixels compared with OpenCV."""

import cv2
import numpy as np
import pytest
import scipy.stats
import torch
from scipy.interpolate import RBFInterpolator

from stn.distortions import PROTOCOLS, Distortion, distort, make_distortion
from stn.transforms import ThinPlateSpline

SIZE = 28  # of a digit, in pixels
CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def draw(protocol: str, count: int, size: int = SIZE, **changes) -> np.ndarray:
    """Draw distortions for digits of ``size`` pixels, with the same random numbers in each call."""
    distortion = Distortion(**(PROTOCOLS[protocol] | changes))
    generator = torch.Generator().manual_seed(0)
    return distortion.draw(count, *distortion.framed(size, size), generator).double().numpy()


def square(matrices: np.ndarray) -> np.ndarray:
    """Append the row (0, 0, 1) to matrices (B, 2, 3)."""
    return np.concatenate((matrices, np.tile([[[0.0, 0.0, 1.0]]], (len(matrices), 1, 1))), 1)


def map_points(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (N, 2) or (B, N, 2) by homographies (B, 3, 3): (B, N, 2)."""
    mapped = np.concatenate((points, np.ones_like(points[..., :1])), -1) @ matrices.transpose(0, 2, 1)
    return mapped[..., :2] / mapped[..., 2:]


def motions(matrices: np.ndarray, canvas: int) -> dict[str, np.ndarray]:
    """Return angle in degrees, scale, and shift in pixels of the content: the inverse of the sampling matrices."""
    forward = np.linalg.inv(square(matrices))
    return {
        "angle": np.degrees(np.arctan2(forward[:, 1, 0], forward[:, 0, 0])),
        "scale": np.hypot(forward[:, 0, 0], forward[:, 1, 0]),
        "x": forward[:, 0, 2] * canvas / 2,
        "y": forward[:, 1, 2] * canvas / 2,
    }


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    assert low - 1e-3 <= values.min() and values.max() <= high + 1e-3
    assert scipy.stats.kstest(values, "uniform", args=(low, high - low)).pvalue > 0.01


def assert_normal(values: np.ndarray, deviation: float) -> None:
    assert scipy.stats.kstest(values.ravel(), "norm", args=(0, deviation)).pvalue > 0.01
    correlations = np.corrcoef(values.reshape(len(values), -1).T)
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.08, "the points do not move independently"


def test_r_rotates_by_up_to_90_degrees_and_does_nothing_else():
    drawn = motions(draw("R", 4000), SIZE)
    assert_uniform(drawn["angle"], -90, 90)
    np.testing.assert_allclose(drawn["scale"], 1, atol=1e-5)
    np.testing.assert_allclose((drawn["x"], drawn["y"]), 0, atol=1e-5)


def test_rts_rotates_scales_and_places_the_digit_on_a_canvas_of_42_pixels():
    assert make_distortion("RTS").framed(SIZE, SIZE) == (42, 42)
    drawn = motions(draw("RTS", 4000), 42)
    assert_uniform(drawn["angle"], -45, 45)
    assert_uniform(drawn["scale"], 0.7, 1.2)
    room = (42 - SIZE * drawn["scale"]) / 2  # margin on either side of the scaled digit
    for axis in ("x", "y"):
        assert_uniform(drawn[axis] / room, -1, 1)
    independent = [drawn["angle"], drawn["scale"], drawn["x"] / room, drawn["y"] / room]
    assert np.abs(np.corrcoef(independent) - np.eye(4)).max() < 0.06


def test_p_scales_and_moves_each_corner_by_5_pixels_in_x_and_in_y():
    homographies, scaled = draw("P", 4000), square(draw("P", 4000, corners=0.0))
    assert_uniform(1 / scaled[:, 0, 0], 0.75, 1.0)
    np.testing.assert_allclose(scaled[:, 0, 0], scaled[:, 1, 1])
    # The effect of the corners only: the drawn homography without the scale, which the same random numbers give.
    bent = np.linalg.inv(scaled) @ homographies
    outward = (map_points(np.linalg.inv(bent), CORNERS) / CORNERS - 1) * SIZE / 2
    np.testing.assert_allclose(outward[..., 0], outward[..., 1], atol=0.02)
    assert_normal(outward[..., 0], 5)


def test_e_scales_and_warps_by_16_points_that_move_by_one_and_a_half_pixels():
    points, scaled = draw("E", 4000), square(draw("E", 4000, warp=0.0))
    assert points.shape == (4000, 16, 2)
    assert_uniform(1 / scaled[:, 0, 0], 0.75, 1.0)
    regular = np.array(ThinPlateSpline(control_points=4).identity).reshape(16, 2)
    assert_normal((map_points(np.linalg.inv(scaled), points) - regular) * SIZE / 2, 1.5)


def test_tc_places_the_digit_by_whole_pixels_anywhere_on_a_canvas_of_60():
    assert make_distortion("TC").framed(SIZE, SIZE) == (60, 60)
    drawn = motions(draw("TC", 8000), 60)
    np.testing.assert_allclose(drawn["scale"], 1, atol=1e-5)
    np.testing.assert_allclose(drawn["angle"], 0, atol=1e-4)
    for axis in ("x", "y"):
        np.testing.assert_allclose(drawn[axis], drawn[axis].round(), atol=1e-4)
        places, counts = np.unique(drawn[axis].round(), return_counts=True)
        assert places.tolist() == list(range(-16, 17))
        assert scipy.stats.chisquare(counts).pvalue > 0.01
    assert abs(np.corrcoef(drawn["x"], drawn["y"])[0, 1]) < 0.05


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lengths_are_shares_of_the_image(protocol):
    """Draws in units of the image do not depend on the size of the image."""
    if protocol == "TC":  # shifts of whole pixels, which are finer on a larger image
        np.testing.assert_allclose(draw(protocol, 50, 2 * SIZE), draw(protocol, 50), atol=1.5 / 60)
    else:
        np.testing.assert_allclose(draw(protocol, 50, 2 * SIZE), draw(protocol, 50), atol=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_image_has_its_own_draw_and_draws_depend_on_the_generator_only(protocol):
    first = draw(protocol, 20)
    assert np.array_equal(draw(protocol, 20), first)
    assert len({row.tobytes() for row in first}) == 20
    assert not make_distortion(protocol).is_identity


def test_a_protocol_overrides_the_settings_and_none_keeps_them():
    settings = {"rotation": 10.0, "scale": [0.9, 1.0], "shift": 0.1}
    assert make_distortion("none", "border", **settings) == Distortion(**settings, padding_mode="border")
    assert make_distortion(padding_mode="zeros", **settings) == Distortion(**settings)  # without a protocol
    assert make_distortion("R", "border", **settings) == Distortion(rotation=90, padding_mode="border")


# Comparison with OpenCV.


def smooth_images(count: int, size: int) -> np.ndarray:
    noise = np.random.default_rng(0).random((count, size, size)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(image, (0, 0), 1.5) for image in noise])


def distort_images(protocol: str, images: np.ndarray) -> np.ndarray:
    drawn = torch.from_numpy(draw(protocol, len(images))).float()
    return distort(torch.from_numpy(images)[:, None], drawn, "zeros")[:, 0].numpy()


def in_pixels(points: np.ndarray, size: int) -> np.ndarray:
    """Convert coordinates in [-1, 1] to pixel indices, which are integers at pixel centers."""
    return ((points + 1) * size - 1) / 2


@pytest.mark.parametrize(("protocol", "size"), [("R", 28), ("RTS", 42), ("TC", 60)])
def test_rotated_scaled_and_placed_pixels_equal_opencvs(protocol, size):
    images, drawn = smooth_images(10, size), motions(draw(protocol, 10), size)
    ours = distort_images(protocol, images)
    for i, image in enumerate(images):
        # OpenCV's angles turn counterclockwise.
        center = ((size - 1) / 2, (size - 1) / 2)
        forward = cv2.getRotationMatrix2D(center, -drawn["angle"][i], drawn["scale"][i])
        forward[:, 2] += drawn["x"][i], drawn["y"][i]
        np.testing.assert_allclose(ours[i], cv2.warpAffine(image, forward, (size, size)), atol=2e-4)
    assert np.abs(ours - images).mean() > 0.03


def test_pixels_between_moved_corners_equal_opencvs():
    count = 40
    images, scaled = smooth_images(count, SIZE), square(draw("P", count, corners=0.0))
    bent = np.linalg.inv(scaled) @ draw("P", count)
    moved = map_points(np.linalg.inv(bent), CORNERS)
    ours, compared = distort_images("P", images), 0
    for i, image in enumerate(images):
        # The moved corners are mapped to the corners of the scaled image.
        source, target = in_pixels(map_points(scaled[i : i + 1], CORNERS)[0], SIZE), in_pixels(moved[i], SIZE)
        homography = cv2.getPerspectiveTransform(target.astype(np.float32), source.astype(np.float32))
        corners = np.array([[0, 0, 1], [SIZE - 1, 0, 1], [0, SIZE - 1, 1], [SIZE - 1, SIZE - 1, 1]])
        center = homography[2] @ [(SIZE - 1) / 2, (SIZE - 1) / 2, 1]
        if (homography[2] @ corners.T / center).min() < 0.11:
            continue  # beyond the horizon ours differs, so that it stays finite
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpPerspective(image, homography, (SIZE, SIZE), flags=flags)
        np.testing.assert_allclose(ours[i], expected, atol=1e-3)
        compared += 1
    assert compared > 30


def test_warped_pixels_equal_scipys_spline_sampled_by_opencv():
    images, points = smooth_images(6, SIZE), draw("E", 6)
    ours = distort_images("E", images)
    regular = np.array(ThinPlateSpline(control_points=4).identity).reshape(16, 2)
    rows, columns = np.indices((SIZE, SIZE))
    targets = np.stack((2 * columns + 1, 2 * rows + 1), -1).reshape(-1, 2) / SIZE - 1
    for i, image in enumerate(images):
        looked_up = RBFInterpolator(regular, points[i], kernel="thin_plate_spline", degree=1)(targets)
        x, y = in_pixels(looked_up, SIZE).T.reshape(2, SIZE, SIZE).astype(np.float32)
        np.testing.assert_allclose(ours[i], cv2.remap(image, x, y, cv2.INTER_LINEAR), atol=2e-4)
        assert np.abs(ours[i] - image).mean() > 0.02
