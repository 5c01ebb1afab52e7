"""Sampling grids of θ and their description, compared with coordinates computed without torch."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.interpolate import RBFInterpolator

from stn.distortions import sampling_matrix
from stn.transforms import TRANSFORMS, Affine, Attention, Projective, Similarity, ThinPlateSpline, Transform
from stn.transforms.coordinates import pixel_centers as pixel_centers_of_torch


def pixel_centers(size: int) -> np.ndarray:
    """Return the centers of ``size`` equal pixels in the interval [-1, 1]: the meaning of align_corners=False."""
    return (2 * np.arange(size) + 1) / size - 1


def similarity(scale: float, degrees: float, shift_x: float = 0.0, shift_y: float = 0.0) -> list[float]:
    """Return θ of a grid that is scaled, rotated clockwise as displayed (y points down) and shifted."""
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return [cos, -sin, shift_x, sin, cos, shift_y]


def random_theta(transform: Transform, count: int, spread: float = 0.1) -> torch.Tensor:
    """Draw θ around the identity, in double precision."""
    noise = torch.randn(count, len(transform.identity), generator=torch.Generator().manual_seed(0)).double()
    return torch.tensor(transform.identity).double() + spread * noise


def test_the_identity_grid_lies_on_pixel_centers():
    grid = Affine()(torch.tensor([Affine.identity]), 2, 4)
    x, y = [-0.75, -0.25, 0.25, 0.75], [-0.5, 0.5]
    torch.testing.assert_close(grid, torch.tensor([[[[column, row] for column in x] for row in y]]))


def test_a_rotated_grid_computed_by_hand():
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
    assert grid.dtype == torch.float64  # gradcheck requires double precision
    np.testing.assert_allclose(grid.numpy(), expected, atol=1e-12)


def test_autocast_does_not_round_the_grid():
    theta = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    expected = Affine()(theta, 33, 47)
    with torch.autocast("cpu", torch.bfloat16):
        grid = Affine()(theta, 33, 47)
        of_bf16 = Affine()(theta.bfloat16(), 33, 47)
    assert grid.dtype == of_bf16.dtype == torch.float32
    assert torch.equal(grid, expected)
    # A localization network under autocast predicts bf16. The grid adds no further rounding.
    assert torch.equal(of_bf16, Affine()(theta.bfloat16().float(), 33, 47))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("degrees", [-170.0, -30.0, 0.0, 45.0, 135.0])
def test_describe_recovers_scale_rotation_and_shift(scale, degrees):
    described = Affine().describe(torch.tensor([similarity(scale, degrees, 0.25, -0.4)]), 8, 8)
    expected = {"scale": scale, "rotation": degrees, "shift_x": 0.25, "shift_y": -0.4, "determinant": scale**2}
    assert {name: described[name].item() for name in expected} == pytest.approx(expected, abs=1e-4)


def test_describe_returns_the_rotation_of_the_polar_decomposition():
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
        ((2.0, 0.0, 0.0, 0.0, 2.0, 0.0), 3 / 4),  # twice as wide and tall
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
    transform = family()
    theta = torch.tensor([transform.identity]).repeat(3, 1)
    unmoved = Affine()(torch.tensor([Affine.identity]).repeat(3, 1), 5, 7)
    torch.testing.assert_close(transform(theta, 5, 7), unmoved)
    described = {name: values.tolist() for name, values in transform.describe(theta, 5, 7).items()}
    expected = {"scale": 1, "rotation": 0, "shift_x": 0, "shift_y": 0, "determinant": 1, "outside": 0}
    assert described == {name: pytest.approx([value] * 3, abs=1e-4) for name, value in expected.items()}


@pytest.mark.parametrize("family", TRANSFORMS.values())
def test_a_grid_is_the_map_of_the_pixel_centers(family):
    """Also with separate points for each image, and for families that do not compute their grids point by point."""
    transform, theta = family().double(), random_theta(family(), 3)
    points = pixel_centers_of_torch((4, 7), theta)
    grid = transform(theta, 4, 7).reshape(3, 28, 2)
    torch.testing.assert_close(transform.map(theta, points), grid)
    torch.testing.assert_close(transform.map(theta, points.repeat(3, 1, 1)), grid)
    # A batch equals its images one by one: the θ of an image does not affect the grids of others.
    torch.testing.assert_close(torch.cat([transform(one[None], 4, 7) for one in theta]).reshape(3, 28, 2), grid)


@pytest.mark.parametrize("family", TRANSFORMS.values())
def test_grids_are_fp32_under_autocast_and_double_precision_if_theta_is(family):
    transform, theta = family(), random_theta(family(), 3).float()
    expected = transform(theta, 9, 11)
    with torch.autocast("cpu", torch.bfloat16):
        grid, of_bf16 = transform(theta, 9, 11), transform(theta.bfloat16(), 9, 11)
    assert grid.dtype == of_bf16.dtype == torch.float32
    assert torch.equal(grid, expected)
    assert torch.equal(of_bf16, transform(theta.bfloat16().float(), 9, 11))
    assert transform(theta.double(), 9, 11).dtype == torch.float64


@pytest.mark.parametrize("family", TRANSFORMS.values())
def test_a_bound_limits_each_parameter_and_changes_nothing_close_to_the_identity(family):
    bounded = family(bound=0.25)
    identity = torch.tensor(bounded.identity)
    far = torch.linspace(-9, 9, len(identity))
    assert ((bounded.bounded((identity + far)[None]) - identity).abs() <= 0.25 + 1e-6).all()
    predicted = (identity + 0.1 * far.sign())[None].requires_grad_()
    expected = identity + 0.25 * math.tanh(0.1 / 0.25) * far.sign()
    torch.testing.assert_close(bounded.bounded(predicted), expected[None])
    start = identity[None].clone().requires_grad_()
    assert torch.equal(bounded.bounded(start), start)
    (slope,) = torch.autograd.grad(bounded.bounded(start).sum(), start)
    assert torch.equal(slope, torch.ones_like(start))
    assert torch.equal(family().bounded(predicted), predicted)  # without a bound θ is unchanged
    with pytest.raises(ValueError, match="bound: 0 given"):
        family(bound=0)


def test_a_similarity_is_a_scaled_rotation_and_a_shift():
    matrix = similarity(1.3, 25, 0.2, -0.4)
    theta = torch.tensor([[matrix[0], matrix[3], 0.2, -0.4]])
    torch.testing.assert_close(Similarity().matrix(theta).flatten(1), torch.tensor([matrix]))
    torch.testing.assert_close(Similarity()(theta, 6, 4), Affine()(torch.tensor([matrix]), 6, 4))
    described = Similarity().describe(theta, 5, 5)
    assert described["scale"].item() == pytest.approx(1.3) and described["rotation"].item() == pytest.approx(25)


@pytest.mark.parametrize("size", [(32, 100), (94, 24), (7, 7)])
def test_a_similarity_keeps_shapes_on_images_that_are_not_square(size):
    """The grid is a rotated and scaled copy of the image in pixels, and it undoes a rigid rotation of the content."""
    height, width = size
    angle, scale = math.radians(35), 1.3
    theta = torch.tensor([[scale * math.cos(angle), scale * math.sin(angle), 0.1, -0.2]])
    transform = Similarity(aspect=width / height)
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    in_pixels = torch.tensor([width / 2, height / 2])
    before, after = ((points - points.roll(1, 0)) * in_pixels for points in (corners, transform.map(theta, corners)[0]))
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1) * scale)
    torch.testing.assert_close((after * after.roll(1, 0)).sum(1) / (height * width), torch.zeros(4), atol=1e-5, rtol=0)
    described = transform.describe(theta, height, width)
    assert described["rotation"].item() == pytest.approx(35, abs=1e-3)
    assert described["scale"].item() == pytest.approx(scale, abs=1e-5)
    turned = sampling_matrix(
        torch.tensor([angle]), torch.tensor([scale]), torch.zeros(1), torch.zeros(1), aspect=width / height
    )
    undone = turned[0, :, :2] @ transform.matrix(theta)[0, :, :2]
    torch.testing.assert_close(undone, torch.eye(2), atol=1e-5, rtol=0)


def test_attention_scales_both_axes_equally_and_shifts():
    theta = torch.tensor([[0.5, 0.25, -0.125]])
    assert Attention().matrix(theta).tolist() == [[[0.5, 0.0, 0.25], [0.0, 0.5, -0.125]]]


def test_attention_with_a_fixed_scale_moves_a_crop():
    crop = Attention(scale=0.5)
    assert crop.identity == (0.0, 0.0)
    assert crop.matrix(torch.tensor([[0.25, -0.125]])).tolist() == [[[0.5, 0.0, 0.25], [0.0, 0.5, -0.125]]]


def test_a_homography_computed_by_hand():
    # (x, y, 1) -> (x + 0.5, y, 0.5 x + 1), which is (1, y, 1.25) at x = 0.5.
    theta = torch.tensor([[1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.5, 0.0]])
    points = torch.tensor([[0.5, -1.0], [0.0, 0.25], [-1.0, 1.0]])
    expected = torch.tensor([[[0.8, -0.8], [0.5, 0.25], [-1.0, 2.0]]])
    torch.testing.assert_close(Projective().map(theta, points), expected)
    # At the center there is no rotation: the slope of (x + 0.5) / (0.5 x + 1) is 0.75, and the slope of y / w is 1.
    local = torch.tensor([[[0.75, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    torch.testing.assert_close(Projective().local_matrix(theta), local, atol=1e-4, rtol=0)
    assert Projective().readable(theta).tolist() == [[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]]]


def test_a_homographys_denominator_stays_above_zero_smoothly():
    # The denominator is 1 + 4 x: zero at x = -1/4, negative beyond.
    theta = torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 4.0, 0.0]], dtype=torch.float64).requires_grad_()
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    mapped = Projective().map(theta, torch.stack((x, torch.ones_like(x)), 1))[0]
    w = 1 / mapped[:, 1]  # y is 1
    assert w.min() > 0
    torch.testing.assert_close(w[x > -0.22], 1 + 4 * x[x > -0.22])
    assert (w.diff() > 0).all()
    slope = w.diff() / x.diff()
    assert slope.diff().abs().max() < 0.5  # no kink: the slope of 4 changes by little between neighbors
    (gradient,) = torch.autograd.grad(mapped.sum(), theta)
    assert gradient.isfinite().all()
    assert torch.autograd.gradcheck(lambda t: Projective().map(t, torch.stack((x, torch.ones_like(x)), 1)[::50]), theta)


@pytest.mark.parametrize("control_points", [2, 3, 4, 6])
def test_a_thin_plate_spline_equals_scipys(control_points):
    spline = ThinPlateSpline(control_points=control_points)
    theta = random_theta(spline, 3, spread=0.2).float()
    points = np.stack(np.meshgrid(pixel_centers(9), pixel_centers(6)), -1).reshape(-1, 2)
    centers = np.array(spline.identity).reshape(-1, 2)
    grid = spline(theta, 6, 9).reshape(3, -1, 2).numpy()
    for one, placed in zip(grid, theta.numpy().reshape(3, -1, 2), strict=True):
        interpolator = RBFInterpolator(centers, placed.astype(float), kernel="thin_plate_spline", degree=1)
        np.testing.assert_allclose(one, interpolator(points), atol=2e-5)


def test_theta_is_the_position_of_the_control_points():
    spline = ThinPlateSpline(control_points=3)
    theta = random_theta(spline, 2)
    rows_of_columns = torch.tensor([[x, y] for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)], dtype=torch.float64)
    torch.testing.assert_close(spline.double().map(theta, rows_of_columns), theta.view(2, 9, 2))
    assert torch.equal(spline.readable(theta), theta.view(2, 9, 2))
    with pytest.raises(ValueError, match="control_points: 1 given"):
        ThinPlateSpline(control_points=1)


def test_a_spline_whose_control_points_moved_affinely_is_that_affine_map():
    """The bending part is zero everywhere, and the description is that of the affine map."""
    matrix = torch.tensor(similarity(1.3, 25, 0.2, -0.4), dtype=torch.float64)[None]
    spline = ThinPlateSpline()
    theta = Affine().map(matrix, torch.tensor(spline.identity, dtype=torch.float64).view(-1, 2)).flatten(1)
    torch.testing.assert_close(spline.double()(theta, 8, 5), Affine()(matrix, 8, 5), atol=5e-6, rtol=0)
    described, expected = ThinPlateSpline().describe(theta, 8, 5), Affine().describe(matrix, 8, 5)
    for name in expected:
        torch.testing.assert_close(described[name], expected[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("family", [Projective, ThinPlateSpline])
def test_local_matrix_is_the_slope_at_the_center(family):
    transform, theta = family().double(), random_theta(family(), 4, spread=0.1)
    center = torch.zeros(4, 1, 2, dtype=torch.float64).requires_grad_()
    x, y = transform.map(theta, center).sum(0)[0]
    across, down = (torch.autograd.grad(value, center, retain_graph=True)[0][:, 0] for value in (x, y))
    slope_B22 = torch.stack((across, down), 1)
    torch.testing.assert_close(transform.local_matrix(theta)[:, :, :2], slope_B22, atol=2e-3, rtol=0)
    torch.testing.assert_close(transform.local_matrix(theta)[:, :, 2], transform.map(theta, center)[:, 0])
    assert (slope_B22 - torch.eye(2)).abs().max() > 0.05


@pytest.mark.parametrize("family", TRANSFORMS.values())
def test_gradients_of_every_family(family):
    theta = random_theta(family(), 2)
    transform = family().double()
    assert torch.autograd.gradcheck(lambda t: transform(t, 4, 5), (theta.requires_grad_(),))
    bounded = family(bound=0.5).double()
    assert torch.autograd.gradcheck(lambda t: bounded(bounded.bounded(t), 4, 5), (theta,))
    points = torch.rand(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(transform.map, (theta, points))


def test_the_gradient_of_a_point_at_a_control_point_is_finite():
    spline = ThinPlateSpline(control_points=3)
    points = torch.zeros(1, 1, 2).requires_grad_()  # the central control point
    (gradient,) = torch.autograd.grad(spline.map(torch.tensor([spline.identity]), points).sum(), points)
    torch.testing.assert_close(gradient, torch.ones(1, 1, 2))


@pytest.mark.parametrize("family", TRANSFORMS.values())
def test_derived_tensors_are_not_saved(family):
    """A spline's solution and the center of a bound follow from the settings. Stored weights must continue to load."""
    assert family(bound=0.5).state_dict() == {}
