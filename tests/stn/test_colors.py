"""Color jitter: each of the three changes is torchvision's."""

import pytest
import torch
from torchvision.transforms.v2 import functional as oracle

from stn.colors import draw_factors, jitter_colors


@pytest.mark.parametrize("channels", [1, 3])
def test_colors_change_as_in_torchvision(channels):
    generator = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(40, channels, 7, 9, generator=generator)
    factors = draw_factors(40, 0.9, generator)
    ours = jitter_colors(images.permute(0, 2, 3, 1).clone(), factors).permute(0, 3, 1, 2)
    for image, (brightness, contrast, saturation), changed in zip(images / 255, factors.tolist(), ours, strict=True):
        expected = oracle.adjust_contrast(oracle.adjust_brightness(image, brightness), contrast)
        if channels == 3:
            expected = oracle.adjust_saturation(expected, saturation)
        torch.testing.assert_close(changed, 255 * expected, atol=0.02, rtol=0)
    assert ours.min() == 0 and ours.max() == 255, "nothing was clamped"


def test_factors_are_uniform_around_one_and_independent():
    factors = draw_factors(4000, 0.4, torch.Generator().manual_seed(0))
    assert factors.shape == (4000, 3)
    assert factors.min() >= 0.6 and factors.max() <= 1.4
    torch.testing.assert_close(factors.mean(0), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(factors.T), torch.eye(3) * 0.8**2 / 12, atol=0.004, rtol=0)


def test_factors_of_one_change_nothing():
    images = 255 * torch.rand(4, 5, 5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(jitter_colors(images.clone(), torch.ones(4, 3)), images)
