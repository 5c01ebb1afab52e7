"""The affine family in three dimensions: compared with SciPy and torch, inverted, and trained."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from torch import nn

from stn import Affine3d, Parallel, SpatialTransformer
from stn.composition import compose
from stn.transforms import PADDING_MODES

SIZE = (5, 7, 8)
SCIPY_MODES = {"zeros": "grid-constant", "border": "nearest", "reflection": "reflect"}
IDENTITY = torch.tensor(Affine3d.identity, dtype=torch.float64)


def random_volumes(count: int, channels: int = 2, size: tuple[int, int, int] = SIZE) -> torch.Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def random_theta(count: int, spread: float = 0.3) -> torch.Tensor:
    noise = torch.randn(count, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return IDENTITY + spread * noise


def square(theta: torch.Tensor) -> torch.Tensor:
    """Return θ (B, 12) as matrices (B, 4, 4)."""
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=theta.dtype).expand(len(theta), 1, 4)
    return torch.cat((theta.view(-1, 3, 4), bottom), 1)


@pytest.mark.parametrize("size", [(1, 1, 1), SIZE, (6, 3, 4)])
def test_the_grid_equals_torchs(size):
    theta = random_theta(3)
    expected = F.affine_grid(theta.view(-1, 3, 4), [3, 1, *size], align_corners=False)
    torch.testing.assert_close(Affine3d()(theta, *size), expected)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_the_identity_returns_the_volume(padding_mode):
    volumes = random_volumes(2)
    warped = SpatialTransformer(nn.Identity(), padding_mode, Affine3d()).warp(volumes, IDENTITY.expand(2, 12))
    torch.testing.assert_close(warped, volumes)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_warping_agrees_with_scipy(padding_mode):
    """SciPy expects a matrix between indices, in the order of the array axes: z, y, x."""
    volumes, theta = random_volumes(4), random_theta(4)
    warped = SpatialTransformer(nn.Identity(), padding_mode, Affine3d()).warp(volumes, theta)
    to_unit = np.diag([2 / size for size in SIZE] + [1.0])
    to_unit[:3, 3] = [1 / size - 1 for size in SIZE]
    for volume, result, matrix in zip(volumes, warped, square(theta).numpy(), strict=True):
        of_axes = matrix[np.ix_([2, 1, 0, 3], [2, 1, 0, 3])]
        of_indices = np.linalg.inv(to_unit) @ of_axes @ to_unit
        for channel, values in zip(volume.numpy(), result.numpy(), strict=True):
            expected = affine_transform(channel, of_indices, order=1, mode=SCIPY_MODES[padding_mode])
            np.testing.assert_allclose(values, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("axes", "dims"), [((0, 1), (3, 4)), ((0, 2), (2, 4)), ((1, 2), (2, 3))], ids=["x, y", "x, z", "y, z"]
)
def test_rotations_by_90_degrees_equal_torchs(axes, dims):
    """x, y and z are the last three dimensions, in reverse order. The grid rotates from one axis to the next."""
    volumes, (one, other) = random_volumes(2, size=(6, 6, 6)), axes
    matrix = torch.eye(3, 4, dtype=torch.float64)
    matrix[one, one] = matrix[other, other] = 0
    matrix[one, other], matrix[other, one] = -1, 1
    warped = SpatialTransformer(nn.Identity(), transform=Affine3d()).warp(volumes, matrix.view(1, 12).expand(2, 12))
    torch.testing.assert_close(warped, torch.rot90(volumes, 1, dims))


def test_a_warp_and_its_inverse_return_the_interior():
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (14, 15, 16)), indexing="ij")
    volumes = (3 * x - 2 * y + z)[None, None]  # linear, so that sampling is exact except at the border
    theta = IDENTITY + torch.tensor([[-0.1, 0.2, 0, 0.1, -0.15, -0.1, 0.1, 0, 0.1, -0.1, -0.1, -0.1]]).double()
    inverse = torch.linalg.inv(square(theta))[:, :3].reshape(1, 12)
    transformer = SpatialTransformer(nn.Identity(), transform=Affine3d())
    there = transformer.warp(volumes, theta)
    interior = transformer.warp(transformer.warp(torch.ones_like(volumes), theta), inverse) > 1 - 1e-9
    assert interior.double().mean() > 0.4
    assert (there - volumes)[interior].abs().mean() > 1
    torch.testing.assert_close(transformer.warp(there, inverse)[interior], volumes[interior], atol=1e-9, rtol=0)


def test_two_transforms_in_series_are_one_matrix():
    first, second = random_theta(4).split(2)
    composed = compose([Affine3d(), Affine3d()])
    together = torch.cat((first, second), 1)
    expected = (square(first) @ square(second))[:, :3]
    torch.testing.assert_close(composed.readable(together), expected)
    torch.testing.assert_close(composed(together, *SIZE), Affine3d()(expected.flatten(1), *SIZE))


def test_each_volume_is_warped_by_its_own_theta():
    volumes, theta = random_volumes(3), random_theta(3)
    transformer = SpatialTransformer(nn.Identity(), transform=Affine3d())
    alone = [transformer.warp(volumes[i : i + 1], theta[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(transformer.warp(volumes, theta), torch.cat(alone))


def test_two_parallel_transforms_with_antialiasing():
    volumes, theta = random_volumes(2, channels=1), random_theta(4)
    transformer = SpatialTransformer(nn.Identity(), "border", Parallel(Affine3d(), 2), antialias=2)
    warped = transformer.warp(volumes, theta.view(2, 24))
    fine = F.affine_grid(theta.view(4, 3, 4), [4, 1, *(2 * n for n in SIZE)], align_corners=False)
    sampled = F.grid_sample(
        volumes.repeat_interleave(2, 0), fine, padding_mode="border", align_corners=False
    )  # fmt: skip
    torch.testing.assert_close(warped, F.avg_pool3d(sampled, 2).view(2, 2, *SIZE))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_gradients_of_grid_and_sampler(padding_mode):
    transformer = SpatialTransformer(nn.Identity(), padding_mode, Affine3d(bound=0.8).double())
    volumes = random_volumes(2, 1, (3, 2, 4)).requires_grad_()
    theta = random_theta(2).requires_grad_()

    def bounded_warp(volumes, theta):
        return transformer.warp(volumes, transformer.transform.bounded(theta))

    assert torch.autograd.gradcheck(bounded_warp, (volumes, theta))


def test_the_grid_is_fp32_under_autocast():
    theta = random_theta(3).float()
    expected = Affine3d()(theta, *SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        grid, of_bf16 = Affine3d()(theta, *SIZE), Affine3d()(theta.bfloat16(), *SIZE)
    assert grid.dtype == of_bf16.dtype == torch.float32
    assert torch.equal(grid, expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_describe_recovers_scale_rotation_and_shift(mirrored):
    turned = Rotation.from_rotvec([25, -40, 30], degrees=True)
    stretch = np.diag([1.5, 1.2, -0.3 if mirrored else 0.3])
    linear = turned.as_matrix() @ stretch
    theta = torch.tensor(np.column_stack((linear, [0.1, -0.2, 0.3])).reshape(1, 12))
    described = {name: value.item() for name, value in Affine3d().describe(theta, *SIZE).items()}
    determinant = (-1 if mirrored else 1) * 1.5 * 1.2 * 0.3
    del described["outside"]
    assert described == pytest.approx(
        {
            "scale": abs(determinant) ** (1 / 3), "rotation": np.rad2deg(turned.magnitude()),
            "shift_x": 0.1, "shift_y": -0.2, "shift_z": 0.3, "determinant": determinant,
        },
        abs=1e-4,
    )  # fmt: skip


def test_describe_counts_the_points_outside():
    half_a_volume_on = IDENTITY + torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    assert Affine3d().describe(half_a_volume_on[None], 6, 2, 3)["outside"].item() == 0.5


def test_a_transformer_learns_to_undo_rotations_and_shifts():
    """The transformer must move a randomly rotated and shifted object of two blobs back to its original pose."""
    torch.manual_seed(0)
    line = (2 * torch.arange(10) + 1) / 10 - 1
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    small = torch.exp(-((x - 0.4) ** 2 + y**2 + z**2) / 0.1)
    template = small + torch.exp(-((x + 0.3) ** 2 + (y - 0.2) ** 2 + (z + 0.3) ** 2) / 0.2)
    template = template[None, None]
    mover = SpatialTransformer(nn.Identity(), transform=Affine3d())

    def motions(count: int) -> torch.Tensor:
        turned = Rotation.from_rotvec(20 * np.random.default_rng(count).uniform(-1, 1, (count, 3)), degrees=True)
        linear = torch.tensor(turned.as_matrix()).float()
        return torch.cat((linear, 0.5 * torch.rand(count, 3, 1) - 0.25), 2).flatten(1)

    last = nn.Linear(32, 12)
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor(Affine3d.identity)
    localization = nn.Sequential(
        nn.Conv3d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), last
    )
    transformer = SpatialTransformer(localization, transform=Affine3d())
    optimizer = torch.optim.Adam(transformer.parameters(), lr=3e-3)
    moved = mover.warp(template.expand(256, -1, -1, -1, -1), motions(256))
    for step in range(400):
        batch = moved[step % 8 :: 8]
        loss = F.mse_loss(transformer(batch), template.expand_as(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    motion = motions(64)
    unseen = mover.warp(template.expand(64, -1, -1, -1, -1), motion)
    with torch.no_grad():
        theta = transformer.theta(unseen)
        before, after = ((v - template).square().mean() for v in (unseen, transformer(unseen)))
    assert after < 0.1 * before
    # The transformer followed by the motion maps the center of the volume close to itself.
    there_and_back = (square(motion) @ square(theta))[:, :3, 3].norm(dim=1).mean()
    assert there_and_back < 0.4 * motion.view(-1, 3, 4)[:, :, 3].norm(dim=1).mean()
