"""Warping by θ: compared with SciPy and with torch's flips and rotations, inverted, and its gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch import nn

from stn import Affine, Localization, SpatialTransformer
from stn.spatial_transformer import Sampler
from stn.transforms import PADDING_MODES

SIZES = [(1, 1), (2, 3), (7, 7), (8, 5), (9, 16)]
# The equivalent modes of SciPy: they reflect about, or extend from, the outer edge of the border pixels.
SCIPY_MODES = {"zeros": "grid-constant", "border": "nearest", "reflection": "reflect"}


class Fixed(nn.Module):
    """A localization network that always predicts the same θ."""

    def __init__(self, *theta: float):
        super().__init__()
        self.theta_P = torch.tensor(theta)

    def forward(self, images):
        return self.theta_P.to(images.dtype).expand(len(images), -1)


def random_images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def random_theta(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw θ around the identity, so far from it that many points of each grid lie outside the image."""
    noise = 0.5 * torch.randn(count, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return torch.tensor(Affine.identity, dtype=dtype) + noise


def scipy_warp(images: np.ndarray, theta: np.ndarray, padding_mode: str) -> np.ndarray:
    """Sample bilinearly at the source of each target pixel, in pixel units (equations 1 and 5 of the paper)."""
    batch, channels, height, width = images.shape
    y, x = np.meshgrid((2 * np.arange(height) + 1) / height - 1, (2 * np.arange(width) + 1) / width - 1, indexing="ij")
    warped = np.empty_like(images)
    for b in range(batch):
        (a, b_, tx), (c, d, ty) = theta[b].reshape(2, 3)
        column = ((a * x + b_ * y + tx + 1) * width - 1) / 2
        row = ((c * x + d * y + ty + 1) * height - 1) / 2
        for channel in range(channels):
            warped[b, channel] = map_coordinates(
                images[b, channel], [row, column], order=1, mode=SCIPY_MODES[padding_mode]
            )
    return warped


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_identity_returns_the_image(height, width, padding_mode):
    images = random_images(2, 3, height, width)
    warped = SpatialTransformer(Fixed(*Affine.identity), padding_mode)(images)
    torch.testing.assert_close(warped, images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("image_shape", [(3, 32, 32), (1, 21, 34)])
def test_an_untrained_transformer_is_the_identity(image_shape):
    images = random_images(4, *image_shape)
    torch.testing.assert_close(
        SpatialTransformer(Localization(image_shape, Affine.identity))(images), images, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_warping_agrees_with_scipy(height, width, padding_mode):
    images, theta = random_images(6, 2, height, width, dtype=torch.float64), random_theta(6)
    warped = SpatialTransformer(nn.Identity(), padding_mode).warp(images, theta)
    np.testing.assert_allclose(warped.numpy(), scipy_warp(images.numpy(), theta.numpy(), padding_mode), atol=1e-9)


def test_theta_is_within_the_transforms_bound():
    theta = SpatialTransformer(Fixed(9, 9, 9, 9, -9, 9), transform=Affine(bound=0.25)).theta(random_images(2, 1, 4, 4))
    torch.testing.assert_close(theta, torch.tensor([[1.25, 0.25, 0.25, 0.25, 0.75, 0.25]]).expand(2, 6))


def test_each_image_is_warped_by_its_own_theta():
    images = random_images(3, 1, 6, 6)

    class Shift(nn.Module):
        """Predicts a shift by the mean of the image, so that mixed-up images are detected."""

        def forward(self, images):
            theta = torch.tensor(Affine.identity).repeat(len(images), 1)
            theta[:, 2] = images.mean((1, 2, 3))
            return theta

    transformer = SpatialTransformer(Shift(), "border")
    alone = torch.cat([transformer(image[None]) for image in images])
    torch.testing.assert_close(transformer(images), alone)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mirroring_x_is_a_horizontal_flip(height, width):
    images = random_images(2, 3, height, width)
    warped = SpatialTransformer(Fixed(-1, 0, 0, 0, 1, 0))(images)
    torch.testing.assert_close(warped, images.flip(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [4, 7])
def test_a_grid_rotated_clockwise_rotates_the_content_counterclockwise(size):
    images = random_images(2, 3, size, size)
    # (x, y) -> (-y, x) rotates the grid by 90 degrees clockwise as displayed; rot90 rotates counterclockwise.
    warped = SpatialTransformer(Fixed(0, -1, 0, 1, 0, 0))(images)
    torch.testing.assert_close(warped, torch.rot90(images, 1, (2, 3)), atol=1e-5, rtol=0)


def test_whole_pixel_shifts_and_the_values_of_each_padding_mode():
    row = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    look_two_pixels_right = Fixed(1, 0, 2 * 2 / 4, 0, 1, 0)
    expected = {"zeros": [3, 4, 0, 0], "border": [3, 4, 4, 4], "reflection": [3, 4, 4, 3]}
    for padding_mode, values in expected.items():
        warped = SpatialTransformer(look_two_pixels_right, padding_mode)(row)
        assert warped.flatten().tolist() == pytest.approx(values, abs=1e-5), padding_mode


def test_a_warp_and_its_inverse_return_the_interior():
    # Bilinear sampling is exact on linear functions, so all errors are at the border.
    height, width = 19, 28
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    images = torch.stack([3.0 * x - 2.0 * y, x + 5.0 * y])[None].double()
    theta = torch.tensor([[0.9, -0.35, 0.1, 0.2, 0.8, -0.15]], dtype=torch.float64)
    square = torch.cat([theta.view(2, 3), torch.tensor([[0.0, 0.0, 1.0]])])
    inverse = torch.linalg.inv(square)[:2].reshape(1, 6)

    transformer = SpatialTransformer(nn.Identity(), "zeros")
    there = transformer.warp(images, theta)
    back = transformer.warp(there, inverse)
    interior = transformer.warp(transformer.warp(torch.ones_like(images), theta), inverse) > 1 - 1e-9
    assert interior.double().mean() > 0.5
    assert (there - images)[interior].abs().mean() > 1  # the image changed
    torch.testing.assert_close(back[interior], images[interior], atol=1e-9, rtol=0)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_gradients_of_grid_and_sampler(padding_mode):
    transformer = SpatialTransformer(nn.Identity(), padding_mode)
    images = random_images(2, 2, 5, 6, dtype=torch.float64).requires_grad_()
    theta = random_theta(2).requires_grad_()
    assert torch.autograd.gradcheck(transformer.warp, (images, theta))


def test_gradients_through_the_whole_transformer():
    torch.manual_seed(0)
    localization = Localization((1, 7, 8), Affine.identity, channels=(2,), kernel_sizes=(3,), hidden=4)
    transformer = SpatialTransformer(localization).double()
    # At the identity the grid points lie on pixel centers, where bilinear sampling is not differentiable.
    for parameter in localization.parameters():
        nn.init.normal_(parameter, std=0.2)
    nn.init.normal_(localization.head[-1].bias, mean=0.3, std=0.2)  # pyright: ignore[reportArgumentType]
    images = random_images(2, 1, 7, 8, dtype=torch.float64).requires_grad_()
    names, parameters = zip(*transformer.named_parameters(), strict=True)

    def apply(images, *parameters):
        return torch.func.functional_call(transformer, dict(zip(names, parameters, strict=True)), (images,))

    assert torch.autograd.gradcheck(apply, (images, *parameters))
    apply(images, *parameters).square().sum().backward()
    still = [name for name, parameter in zip(names, parameters, strict=True) if not parameter.grad.abs().sum() > 0]
    assert still == []  # gradcheck would accept gradients of zero


def test_bf16_images_are_sampled_at_unrounded_coordinates():
    images, grid = random_images(2, 3, 40, 40).bfloat16(), Affine()(random_theta(2, torch.float32), 40, 40)
    sampled = Sampler("border")(images, grid)
    assert sampled.dtype == torch.bfloat16
    exact = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    assert torch.equal(sampled, exact.bfloat16())


def test_an_unknown_padding_mode_is_refused():
    with pytest.raises(ValueError, match=r"padding_mode: 'reflect' is not one of zeros, border, reflection"):
        SpatialTransformer(Fixed(*Affine.identity), padding_mode="reflect")


def test_a_transformer_trains_inside_another_model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        SpatialTransformer(Localization((3, 12, 15), Affine.identity, channels=(4,), kernel_sizes=(3,), hidden=8)),
        nn.Flatten(),
        nn.Linear(3 * 12 * 15, 2),
    )
    labels = torch.arange(32) % 2
    images = random_images(32, 2, 12, 15)
    images[labels == 1, :, 3:9, 3:9] += 0.5
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)  # with 0.1 half of all seeds move the grid off the image
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert unmoved == []
