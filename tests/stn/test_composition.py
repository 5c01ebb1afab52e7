"""Transforms in series and in parallel, compared with single transforms and single images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn import Affine, Attention, Localization, Parallel, Projective, Series, Similarity, SpatialTransformer
from stn import ThinPlateSpline as Tps
from stn.composition import compose
from stn.transforms import Transform

CHAINS = [(Affine, Similarity), (Attention, Affine, Affine), (Projective, Affine), (Affine, Tps), (Tps, Projective)]


class Scripted(nn.Module):
    """A localization network that records its input and returns a given θ."""

    def __init__(self, theta: torch.Tensor):
        super().__init__()
        self.theta = theta

    def forward(self, images):
        self.seen = images
        return self.theta


def random_images(count: int, channels: int = 2, height: int = 12, width: int = 15) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)).double()


def thetas(transforms: list[Transform], count: int, spread: float = 0.1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.tensor(t.identity).double() + spread * torch.randn(count, len(t.identity), generator=generator).double()
        for t in transforms
    ]


@pytest.mark.parametrize("families", CHAINS)
def test_a_composed_map_applies_the_last_transform_first(families):
    parts = [family().double() for family in families]
    composed, each = compose(parts), thetas(parts, 3)
    points = torch.rand(3, 7, 2, generator=torch.Generator().manual_seed(2)).double()
    expected = points
    for part, theta in zip(parts[::-1], each[::-1], strict=True):
        expected = part.map(theta, expected)
    together = torch.cat(each, 1)
    torch.testing.assert_close(composed.map(together, points), expected)
    assert len(composed.identity) == together.shape[1]
    # At pixel centers, which all images share.
    centers = Affine()(torch.tensor([Affine.identity]).double(), 5, 6).reshape(1, -1, 2).expand(3, -1, -1)
    torch.testing.assert_close(composed(together, 5, 6).reshape(3, -1, 2), composed.map(together, centers))


def test_affine_transforms_are_composed_as_matrices():
    parts: list[Transform] = [Attention(), Similarity(), Affine()]
    composed, each = compose(parts), thetas(parts, 4)
    assert isinstance(composed, Affine)
    bottom = torch.tensor([[[0.0, 0.0, 1.0]]]).double().expand(4, 1, 3)
    product = torch.eye(3).double()
    for part, theta in zip(parts, each, strict=True):
        product = product @ torch.cat((part.readable(theta), bottom), 1)
    torch.testing.assert_close(composed.readable(torch.cat(each, 1)), product[:, :2])


def test_a_transform_and_its_inverse_are_the_identity():
    (theta,) = thetas([Affine()], 3)
    square = torch.cat((theta.view(3, 2, 3), torch.tensor([[[0.0, 0.0, 1.0]]]).expand(3, 1, 3)), 1)
    inverse = torch.linalg.inv(square)
    together = torch.cat((theta, inverse[:, :2].flatten(1)), 1)
    torch.testing.assert_close(
        compose([Affine(), Affine()])(together, 4, 5), Affine()(torch.tensor([Affine.identity] * 3).double(), 4, 5)
    )
    # With a homography, so that maps are composed instead of matrices.
    together = torch.cat((theta, (inverse / inverse[:, 2:, 2:]).flatten(1)[:, :8]), 1)
    torch.testing.assert_close(
        compose([Affine(), Projective()])(together, 4, 5), Affine()(torch.tensor([Affine.identity] * 3).double(), 4, 5)
    )


def test_the_readable_form_of_a_mixed_series_is_a_grid_of_points():
    parts: list[Transform] = [Affine().double(), Tps().double()]
    affine, spline = thetas(parts, 2)
    read = compose(parts).readable(torch.cat((affine, spline), 1))
    torch.testing.assert_close(read, Affine().map(affine, spline.view(2, 16, 2)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("families", CHAINS)
def test_each_network_of_a_series_sees_the_image_rectified_so_far_and_the_image_is_resampled_once(families):
    parts = [family().double() for family in families]
    each, images = thetas(parts, 3), random_images(3)
    networks = [Scripted(theta) for theta in each]
    series = Series(networks, parts, padding_mode="border")
    rectified = series(images)
    assert torch.equal(networks[0].seen, images)
    for i in range(1, len(parts)):
        prefix = SpatialTransformer(nn.Identity(), "border", compose(parts[:i]))
        torch.testing.assert_close(networks[i].seen, prefix.warp(images, torch.cat(each[:i], 1)))
    once = F.grid_sample(images, compose(parts)(torch.cat(each, 1), 12, 15), padding_mode="border", align_corners=False)
    torch.testing.assert_close(rectified, once)
    twice = SpatialTransformer(nn.Identity(), "border", parts[-1]).warp(networks[-1].seen, each[-1])
    assert (twice - rectified).abs().max() > 0.01  # resampling twice would blur the image


def test_a_series_starts_at_the_identity_and_each_of_its_networks_learns():
    torch.manual_seed(0)
    transforms = [Similarity(bound=0.5), Tps()]
    settings = {"channels": (3,), "kernel_sizes": (3,), "hidden": 4}
    series = Series([Localization((1, 12, 15), t.identity, **settings) for t in transforms], transforms)
    images = torch.rand(4, 1, 12, 15)
    torch.testing.assert_close(series(images), images, atol=1e-5, rtol=0)
    assert len(series.localizations()) == 2
    (series(images) * torch.rand(4, 1, 12, 15)).sum().backward()
    for localization in series.localizations():
        *_, bias = localization.parameters()
        assert bias.grad is not None and bias.grad.abs().sum() > 0


def test_a_series_keeps_the_bound_of_each_of_its_transforms():
    far = torch.full((2, 6), 9.0)
    series = Series([Scripted(far), Scripted(far)], [Affine(bound=0.1), Affine()])
    identity = torch.tensor(Affine.identity)
    theta = series.theta(random_images(2).float())
    assert (theta[:, :6] - identity).abs().max() <= 0.1 + 1e-6
    assert torch.equal(theta[:, 6:], far)


@pytest.mark.parametrize("transform", [Affine(), Projective(), Tps(), Attention(scale=0.5)])
def test_parallel_heads_are_independent(transform):
    transform = transform.double()
    parallel, images = Parallel(transform, 3), random_images(4)
    theta = thetas([parallel], 4)[0]
    transformer = SpatialTransformer(Scripted(theta), "border", parallel, output_size=(6, 7))
    rectified = transformer(images)
    alone = SpatialTransformer(nn.Identity(), "border", transform, output_size=(6, 7))
    heads = [alone.warp(images, own) for own in theta.chunk(3, 1)]
    torch.testing.assert_close(rectified, torch.cat(heads, 1))  # stacked as channels
    assert (heads[0] - heads[1]).abs().max() > 0.05
    stacked = transformer.resample(images, theta)
    torch.testing.assert_close(stacked, torch.cat(heads, 2))
    readable = parallel.readable(theta)
    described = parallel.describe(theta, 6, 7)
    for i, own in enumerate(theta.chunk(3, 1)):
        torch.testing.assert_close(readable[:, i], transform.readable(own))
        for name, values in transform.describe(own, 6, 7).items():
            torch.testing.assert_close(described[f"{name}_{i + 1}"], values)
    assert len(described) == 3 * 6


def test_each_head_is_pooled_separately():
    parallel, images = Parallel(Affine(), 2), random_images(3)
    theta = thetas([parallel], 3)[0]
    transformer = SpatialTransformer(nn.Identity(), "border", parallel, (5, 6), antialias=2)
    alone = SpatialTransformer(nn.Identity(), "border", Affine(), (5, 6), antialias=2)
    expected = torch.cat([alone.warp(images, own) for own in theta.chunk(2, 1)], 1)
    torch.testing.assert_close(transformer.warp(images, theta), expected)


@pytest.mark.parametrize(
    ("heads", "corners"),
    [
        (1, [(0.0, 0.0)]),
        (2, [(-0.5, 0.0), (0.5, 0.0)]),
        (4, [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)]),
    ],
)
def test_crops_of_a_fixed_scale_start_as_tiles_of_the_image(heads, corners):
    parallel = Parallel(Attention(scale=0.5), heads)
    assert torch.tensor(parallel.identity).view(-1, 2).tolist() == [list(corner) for corner in corners]
    images = random_images(2, height=8, width=8).float()
    theta = torch.tensor([parallel.identity] * 2)
    tiles = SpatialTransformer(nn.Identity(), "zeros", parallel, output_size=(4, 4)).warp(images, theta)
    if heads == 4:
        upper, lower = images.split(4, 2)
        expected = torch.cat((*upper.split(4, 3), *lower.split(4, 3)), 1)
        torch.testing.assert_close(tiles, expected, atol=1e-5, rtol=0)


def test_other_heads_start_at_the_identity_and_each_head_is_bounded_around_its_start():
    assert Parallel(Similarity(), 2).identity == Similarity.identity * 2
    parallel = Parallel(Attention(bound=0.1, scale=0.5), 2)
    bounded = parallel.bounded(torch.full((1, 4), 9.0))
    torch.testing.assert_close(bounded, torch.tensor([[-0.4, 0.1, 0.6, 0.1]]))


@pytest.mark.parametrize("families", CHAINS)
def test_gradients_of_a_series(families):
    parts = [family().double() for family in families]
    theta = torch.cat(thetas(parts, 2), 1).requires_grad_()
    transformer = SpatialTransformer(nn.Identity(), "border", compose(parts), (3, 4), antialias=2)
    images = random_images(2, 1, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(transformer.warp, (images, theta))


def test_gradients_of_parallel_heads():
    parallel = Parallel(Projective(), 2)
    theta = thetas([parallel], 2)[0].requires_grad_()
    transformer = SpatialTransformer(nn.Identity(), "border", parallel, (3, 4))
    images = random_images(2, 1, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(transformer.warp, (images, theta))


@pytest.mark.parametrize(
    "transform", [compose([Affine(), Tps()]), compose([Affine(), Affine()]), Parallel(Affine(), 2)]
)
def test_composed_grids_are_in_fp32_under_autocast(transform):
    theta = torch.tensor([transform.identity]) + 0.1 * torch.randn(
        3, len(transform.identity), generator=torch.Generator().manual_seed(0)
    )
    expected = transform(theta, 9, 11)
    with torch.autocast("cpu", torch.bfloat16):
        grid = transform(theta, 9, 11)
    assert grid.dtype == torch.float32 and torch.equal(grid, expected)
