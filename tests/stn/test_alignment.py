"""Alignment of transformers whose answer is known: nothing, the exact inverse, half too much, a zoom to a point."""

import math

import pytest
import torch
from torch import Tensor

from stn.alignment import FAR, corner_errors, fit_poses, slopes
from stn.composition import Parallel, compose
from stn.distortions import distort, sampling_matrix
from stn.transforms import Affine, Projective, Similarity, ThinPlateSpline

SIZE = (20, 30)
ASPECT = SIZE[1] / SIZE[0]
IMAGES = 5


def motion(angle: float | Tensor = 0.0, scale: float | Tensor = 1.0, x: float | Tensor = 0.0, y: float | Tensor = 0.0):
    """The sampling map (B, 2, 3) of a motion: rotation in radians, scale factor, shift in units of half the image."""
    values = torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float64) for value in (angle, scale, x, y)))
    return sampling_matrix(*(value.reshape(-1) for value in values), aspect=ASPECT)


def square(matrices: Tensor) -> Tensor:
    last = torch.tensor([0.0, 0.0, 1.0], dtype=matrices.dtype).expand(len(matrices), 1, 3)
    return torch.cat((matrices, last), 1)


def random_motions(seed: int, count: int = IMAGES) -> Tensor:
    u = torch.rand(4, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return motion(u[0], 1 + 0.3 * u[1], 0.4 * u[2], 0.4 * u[3])


def undoing(motions: Tensor, own: Tensor | None = None) -> Tensor:
    """θ (B, 6) of the affine transformer that undoes the motions, and shows each image in its ``own`` pose."""
    own = motion().expand(len(motions), 2, 3) if own is None else own
    return (torch.linalg.inv(square(motions)) @ square(own))[:, :2].flatten(1)


def identity_theta(count: int) -> Tensor:
    return torch.tensor([Affine.identity]).repeat(count, 1)


AMOUNTS = {
    "rotation": torch.linspace(-0.5, 0.5, 5, dtype=torch.float64),
    "log_scale": torch.linspace(-0.3, 0.3, 5, dtype=torch.float64),
    "shift_x": torch.linspace(-0.4, 0.4, 5, dtype=torch.float64),
    "shift_y": torch.linspace(-0.4, 0.4, 5, dtype=torch.float64),
}


def moved(kind: str, amounts: Tensor) -> Tensor:
    return {
        "rotation": lambda: motion(angle=amounts),
        "log_scale": lambda: motion(scale=amounts.exp()),
        "shift_x": lambda: motion(x=amounts),
        "shift_y": lambda: motion(y=amounts),
    }[kind]()


@pytest.mark.parametrize("kind", AMOUNTS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.5])
def test_the_slope_is_the_share_of_the_motion_that_is_undone(kind, share):
    applied = AMOUNTS[kind]
    own = random_motions(0)  # each image has a pose of its own
    thetas = [undoing(moved(kind, share * amount).expand(IMAGES, 2, 3), own) for amount in applied]
    undone = torch.stack([getattr(fit_poses(Affine(), theta, SIZE, SIZE), kind) for theta in thetas])
    torch.testing.assert_close(slopes(applied, undone), torch.full((IMAGES,), share, dtype=torch.float64))


def test_the_rotation_of_a_transformer_that_mirrors_is_measured():
    applied, mirror = AMOUNTS["rotation"], torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    thetas = [undoing(moved("rotation", amount), mirror) for amount in applied]
    undone = torch.stack([fit_poses(Affine(), theta, SIZE, SIZE).rotation for theta in thetas])
    torch.testing.assert_close(slopes(applied, undone), torch.ones(1, dtype=torch.float64))


def test_the_theta_with_slope_one_restores_the_image():
    """The sign is that of images: turned by T and resampled by θ, an image is as before."""
    image = torch.zeros(1, 1, *SIZE, dtype=torch.float64)
    image[..., 6:14, 10:20] = torch.rand(8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    turn = motion(angle=math.pi / 2)
    turned = distort(image, turn, "zeros")
    restored = distort(turned, undoing(turn).view(-1, 2, 3), "zeros")
    assert (turned - image).abs().max() > 0.5
    torch.testing.assert_close(restored, image)


def test_the_corner_error_is_zero_if_both_views_are_undone_and_the_pose_of_the_image_does_not_matter():
    first, second, own = random_motions(1), random_motions(2), random_motions(3)
    errors = corner_errors(Affine(), (undoing(first, own), undoing(second, own)), (first, second), SIZE)
    torch.testing.assert_close(errors, torch.zeros(IMAGES, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_corner_error_of_nothing_is_the_distance_of_the_motions_in_pixels():
    first, second = motion(x=0.1, y=0.2), motion(x=-0.1, y=0.0)
    still = identity_theta(1)
    # Shifts of 0.2 units of half the image are 3 of 15 pixels, and 2 of 10.
    expected = torch.tensor([math.hypot(3, 2)], dtype=torch.float64)
    torch.testing.assert_close(corner_errors(Affine(), (still, still), (first, second), SIZE), expected)


def test_half_too_much_leaves_as_much_as_half_too_little():
    first, second = motion(angle=0.3), motion(angle=-0.3)

    def error(share: float) -> float:
        thetas = (undoing(motion(angle=0.3 * share)), undoing(motion(angle=-0.3 * share)))
        return corner_errors(Affine(), thetas, (first, second), SIZE).item()

    assert error(1.5) == pytest.approx(error(0.5)) and 0 < error(0.5) < error(0.0)


def test_a_zoom_to_a_point_is_worse_than_nothing():
    first, second = random_motions(1), random_motions(2)
    still = corner_errors(Affine(), (identity_theta(IMAGES), identity_theta(IMAGES)), (first, second), SIZE)
    zoom = identity_theta(IMAGES) * 0.05
    assert (corner_errors(Affine(), (zoom, zoom), (first, second), SIZE) > still).all()
    point = torch.tensor([[0.0, 0.0, 0.2, 0.0, 0.0, 0.1]]).repeat(IMAGES, 1)
    assert (corner_errors(Affine(), (point, point), (first, second), SIZE) > FAR).all()
    undone = torch.stack([fit_poses(Affine(), point, SIZE, SIZE).shift_x] * 5)
    assert slopes(AMOUNTS["shift_x"], undone).tolist() == [0.0] * IMAGES


@pytest.mark.parametrize("family", ["projective", "tps", "similarity", "series"])
def test_all_families_that_can_undo_an_affine_motion_are_measured_alike(family):
    u = torch.rand(2, 3, IMAGES, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) - 0.5
    # On square images, where a similarity is one in normalized coordinates too.
    motions = [sampling_matrix(x, 1 + y, z, -z) for x, y, z in u]
    thetas = [undoing(sampling_matrix(0.7 * x, 1 + 0.7 * y, 0.7 * z, -0.7 * z)) for x, y, z in u]
    size = (20, 20)
    expected = corner_errors(Affine(), (thetas[0], thetas[1]), (motions[0], motions[1]), size)
    pose = fit_poses(Affine(), thetas[0], size, size)
    transform = {
        "projective": Projective(), "tps": ThinPlateSpline(), "similarity": Similarity(),
        "series": compose([Similarity(), ThinPlateSpline()]),
    }[family]  # fmt: skip
    points = ThinPlateSpline().centers_N2.double()
    own = [
        {
            "projective": lambda theta: torch.cat((theta, torch.zeros(IMAGES, 2)), 1),
            "tps": lambda theta: Affine().map(theta, points).flatten(1),
            "similarity": lambda theta: theta[:, [0, 3, 2, 5]],
            "series": lambda theta: torch.cat((theta[:, [0, 3, 2, 5]], points.flatten().expand(IMAGES, -1)), 1),
        }[family](theta)
        for theta in thetas
    ]
    torch.testing.assert_close(
        corner_errors(transform, (own[0], own[1]), (motions[0], motions[1]), size), expected, atol=1e-4, rtol=0
    )
    for measured, wanted in zip(fit_poses(transform, own[0], size, size), pose, strict=True):
        torch.testing.assert_close(measured, wanted, atol=1e-5, rtol=0)


def test_a_bent_map_is_inverted_point_by_point():
    """Equal bends of both views cancel: the corners come back to themselves."""
    spline = ThinPlateSpline()
    noise = 0.1 * torch.randn(IMAGES, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    theta = torch.tensor(spline.identity, dtype=torch.float64) + noise
    still = motion().expand(IMAGES, 2, 3)
    errors = corner_errors(spline, (theta, theta), (still, still), SIZE)
    torch.testing.assert_close(errors, torch.zeros(IMAGES, dtype=torch.float64), atol=1e-6, rtol=0)


def test_heads_are_measured_one_by_one():
    first, second = random_motions(1), random_motions(2)
    good, idle = (undoing(first), undoing(second)), identity_theta(IMAGES).double()
    both = tuple(torch.cat((theta, idle), 1) for theta in good)
    alone = corner_errors(Affine(), (idle, idle), (first, second), SIZE)
    together = corner_errors(Parallel(Affine(), 2), (both[0], both[1]), (first, second), SIZE)
    torch.testing.assert_close(together, alone / 2)
    poses = fit_poses(Parallel(Affine(), 2), both[0], SIZE, SIZE)
    torch.testing.assert_close(poses.rotation[::2], fit_poses(Affine(), good[0], SIZE, SIZE).rotation)
    assert poses.rotation[1::2].abs().max() < 1e-12
