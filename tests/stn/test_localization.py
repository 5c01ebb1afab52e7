"""The localization network: its geometry compared with torch's, its identity initialization, its errors."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stn.localization import Localization, conv_pool_size

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def torch_size(height: int, width: int, kernel_sizes: list[int]) -> tuple[int, int] | None:
    """Return the size of the output of torch's layers for such an image, or None if they raise an error."""
    features = torch.zeros(1, 1, height, width)
    try:
        for kernel in kernel_sizes:
            features = nn.MaxPool2d(2)(nn.Conv2d(1, 1, kernel)(features))
    except RuntimeError:
        return None
    return features.shape[2], features.shape[3]


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kernel_sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_geometry_equals_torchs_or_is_refused(height, width, kernel_sizes):
    expected = torch_size(height, width, kernel_sizes)
    if expected is None:
        with pytest.raises(ValueError, match="too small"):
            conv_pool_size(height, width, kernel_sizes, "a setting")
    else:
        assert conv_pool_size(height, width, kernel_sizes, "a setting") == expected


@pytest.mark.parametrize("image_shape", [(3, 32, 32), (1, 27, 41), (2, 23, 18)])
def test_an_untrained_network_predicts_the_identity_and_can_learn(image_shape):
    localization = Localization(image_shape, IDENTITY)
    theta = localization(torch.randn(5, *image_shape))
    assert torch.equal(theta, torch.tensor([IDENTITY] * 5))
    # With zero weights the last layer must still receive a gradient, or the network could not learn.
    theta[:, 1].sum().backward()
    last = localization.head[-1]
    assert isinstance(last, nn.Linear)
    assert last.weight.grad is not None
    assert last.weight.grad[1].abs().sum() > 0


def test_settings_reach_the_layers():
    localization = Localization((3, 20, 24), (1.0, 0.0, 0.0), channels=(4, 5), kernel_sizes=(5, 3), hidden=6)
    shapes = [tuple(parameter.shape) for parameter in localization.parameters() if parameter.ndim > 1]
    # 20x24 -> 16x20 -> 8x10 -> 6x8 -> 3x4
    assert shapes == [(4, 3, 5, 5), (5, 4, 3, 3), (6, 5 * 3 * 4), (3, 6)]


def test_without_convolutions_the_network_is_fully_connected():
    localization = Localization((1, 6, 8), IDENTITY, channels=(), kernel_sizes=(), hidden=(5, 4), downsample=2)
    assert [tuple(p.shape) for p in localization.parameters() if p.ndim > 1] == [(5, 3 * 4), (4, 5), (6, 4)]
    assert torch.equal(localization(torch.randn(3, 1, 6, 8)), torch.tensor([IDENTITY] * 3))


def test_downsampling_averages_over_squares():
    """Downsampled by two, a checkerboard equals a gray image."""
    torch.manual_seed(0)
    localization = Localization((1, 24, 24), IDENTITY, kernel_sizes=(3, 3), downsample=2)
    nn.init.normal_(list(localization.parameters())[-2], std=0.1)  # the last layer, which starts with zero weights
    gray = torch.full((1, 1, 24, 24), 0.5)
    board = ((torch.arange(24)[:, None] + torch.arange(24)) % 2).float().expand(1, 1, 24, 24)
    torch.testing.assert_close(localization(board), localization(gray))
    plain = Localization((1, 12, 12), IDENTITY, kernel_sizes=(3, 3))
    with torch.no_grad():
        for parameter, other in zip(plain.parameters(), localization.parameters(), strict=True):
            parameter.copy_(other)
    image = torch.randn(2, 1, 24, 24)
    torch.testing.assert_close(localization(image), plain(image.view(2, 1, 12, 2, 12, 2).mean((3, 5))))


@pytest.mark.parametrize(("name", "function"), [("tanh", torch.tanh), ("gelu", F.gelu), ("leaky_relu", F.leaky_relu)])
def test_the_activation_follows_each_pool_and_the_first_linear_layer(name, function):
    torch.manual_seed(0)
    localization = Localization((1, 16, 16), IDENTITY, channels=(4,), kernel_sizes=(3,), hidden=5, activation=name)
    weights = [torch.randn_like(parameter) for parameter in localization.parameters()]
    for parameter, value in zip(localization.parameters(), weights, strict=True):
        parameter.data.copy_(value)
    image = torch.randn(2, 1, 16, 16)
    features = function(F.max_pool2d(F.conv2d(image, weights[0], weights[1]), 2)).flatten(1)
    expected = F.linear(function(F.linear(features, weights[2], weights[3])), weights[4], weights[5])
    torch.testing.assert_close(localization(image), expected)
    with pytest.raises(ValueError, match=r"localization\.activation: 'sin' is not one of relu"):
        Localization((1, 16, 16), IDENTITY, channels=(4,), kernel_sizes=(3,), activation="sin")


def test_too_small_an_image_is_refused_with_the_setting_and_its_size():
    Localization((1, 18, 18), IDENTITY)  # 18 -> 12 -> 6 -> 2 -> 1: the smallest image
    with pytest.raises(ValueError, match=r"localization\.kernel_sizes: an image of 17×40 pixels.*\[7, 5\]"):
        Localization((1, 17, 40), IDENTITY)


def test_channels_and_kernel_sizes_must_have_equal_lengths():
    with pytest.raises(ValueError, match=r"3 channels \[8, 10, 12\] but 2 kernel_sizes \[7, 5\]"):
        Localization((3, 32, 32), IDENTITY, channels=(8, 10, 12))


@pytest.mark.parametrize("input_size", [None, (5, 40)])
def test_a_downsampling_that_leaves_no_pixel_is_refused(input_size):
    settings = {"channels": [], "kernel_sizes": [], "input_size": input_size}
    Localization((1, 5, 40), [0.0], downsample=5, **settings)(torch.zeros(2, 1, 5, 40))
    with pytest.raises(ValueError, match=r"localization\.downsample: 6 given.* receives 5×40 pixels.* at most 5"):
        Localization((1, 5, 40), [0.0], downsample=6, **settings)
