"""The fast input gradient of grayscale images, compared with PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_input

from stn.convolution import Conv2d, input_gradient, run_length

# (B, H, W), kernel size, output channels: the tutorial's, the paper's, a prime output width, a single output pixel, an
# empty batch.
CASES = [((3, 28, 28), 5, 10), ((2, 28, 28), 9, 32), ((2, 9, 15), 3, 4), ((1, 7, 7), 7, 5), ((0, 12, 12), 5, 8)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "kernel", "channels"), CASES)
def test_values_and_gradients_equal_those_of_torch(shape, kernel, channels, layout):
    batch, height, width = shape
    images = torch.randn(batch, 1, height, width, dtype=torch.float64).requires_grad_()
    ours = Conv2d(1, channels, kernel).double().to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    theirs = F.conv2d(images, ours.weight, ours.bias)
    output = ours(images)
    torch.testing.assert_close(output, theirs)
    upstream = torch.randn_like(theirs)
    inputs = (images, *ours.parameters())
    for mine, expected in zip(
        torch.autograd.grad(output, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, expected)


def test_under_autocast_the_error_is_that_of_bf16():
    images = torch.randn(4, 1, 28, 28, requires_grad=True)
    ours = Conv2d(1, 32, 9)
    with torch.autocast("cpu", torch.bfloat16):
        output = ours(images)
    assert output.dtype == torch.bfloat16
    upstream = torch.randn(output.shape).bfloat16()
    (mine,) = torch.autograd.grad(output, images, upstream)
    (expected,) = torch.autograd.grad(F.conv2d(images, ours.weight, ours.bias), images, upstream.float())
    assert mine.dtype == torch.float32
    assert (mine - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("learned", [True, False], ids=["behind a transformer", "first"])
def test_the_fast_path_is_used_for_grayscale_images_with_a_gradient(channels, learned):
    output = Conv2d(channels, 4, 3)(torch.randn(2, channels, 8, 8, requires_grad=learned))
    assert ("_GrayConvolution" in type(output.grad_fn).__name__) == (learned and channels == 1)


@pytest.mark.parametrize("width", [1, 4, 13, 20, 24, 47, 111])
def test_rows_of_any_width_are_cut_into_short_runs(width):
    run = run_length(width, 5)
    assert run == width if width < 10 else 5 <= run < 10
    gradient, weight = torch.randn(2, 3, 6, width), torch.randn(3, 1, 5, 5)
    whole = conv2d_input((2, 1, 10, width + 4), weight, gradient)
    torch.testing.assert_close(input_gradient(gradient, weight), whole)


def test_frozen_weights_give_the_same_input_gradient():
    frozen = Conv2d(1, 4, 3).requires_grad_(False)
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    output = frozen(images)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    torch.testing.assert_close(images.grad, conv2d_input(images.shape, frozen.weight, upstream))
