"""Crops: windows as torchvision draws them, cut out and enlarged as torchvision does it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as oracle

from stn.crops import draw_windows, window_points


def draw(count: int, size: tuple[int, int], shares: tuple[float, float], seed: int = 0) -> torch.Tensor:
    return draw_windows(count, size, shares, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(28, 28), (32, 24), (20, 90), (90, 20), (5, 5)])
@pytest.mark.parametrize("shares", [(0.08, 1.0), (0.5, 0.6), (0.97, 1.0), (0.001, 0.002)])
def test_every_window_lies_in_the_image_and_has_an_allowed_area_and_aspect(size, shares):
    windows = draw(2000, size, shares)
    top, left, tall, wide = windows.T
    assert (windows == windows.round()).all()
    assert (top >= 0).all() and (left >= 0).all() and (tall >= 1).all() and (wide >= 1).all()
    assert (top + tall <= size[0]).all() and (left + wide <= size[1]).all()
    # Both sides are rounded to whole pixels.
    fallback = (wide == size[1]) & (tall == size[0])
    aspect = size[1] / size[0]  # of a window, the aspect ratio is relative to that of the image
    narrow, broad = (tall - 0.5) * 3 / 4 * aspect <= wide + 0.5, (wide - 0.5) * 3 / 4 <= (tall + 0.5) * aspect
    assert (narrow & broad).all()
    low, high = ((tall + side) * (wide + side) / math.prod(size) for side in (-0.5, 0.5))
    assert ((high >= shares[0]) & (low <= shares[1]) | fallback).all()


@pytest.mark.parametrize("size", [(40, 40), (40, 60), (32, 100)])
def test_windows_have_the_distribution_of_torchvisions(size):
    shares, aspect = (0.2, 1.0), size[1] / size[0]
    ours = draw(4000, size, shares)
    crop = RandomResizedCrop(8, scale=shares, ratio=(3 / 4 * aspect, 4 / 3 * aspect))
    torch.manual_seed(0)
    drawn = [crop.make_params([torch.empty(1, *size)]) for _ in range(4000)]
    theirs = torch.tensor([[p[name] for name in ("top", "left", "height", "width")] for p in drawn]).float()
    deviation = theirs.std(0) / 4000**0.5
    # The difference of two means, within five of its standard deviations.
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * 2**0.5 * deviation).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.05, atol=0)
    corners = (ours[:, 0] == 0) & (ours[:, 1] == 0), (ours[:, :2] + ours[:, 2:] == torch.tensor(size)).all(1)
    assert all(corner.any() for corner in corners)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_a_crop_is_torchvisions(size):
    images = 255 * torch.rand(30, 3, *size, generator=torch.Generator().manual_seed(1))
    windows = draw(30, size, (0.1, 1.0))
    ours = F.grid_sample(images, window_points(windows, size), padding_mode="border", align_corners=False)
    for image, window, crop in zip(images, windows.int().tolist(), ours, strict=True):
        expected = oracle.resized_crop(image, *window, size=list(size))
        torch.testing.assert_close(crop, expected, atol=2e-3, rtol=0)


def test_the_window_of_the_whole_image_samples_the_centers_of_all_pixels():
    points = window_points(torch.tensor([[0.0, 0.0, 4.0, 6.0]]), (4, 6))
    assert points.shape == (1, 4, 6, 2)
    torch.testing.assert_close(points[0, 0, :, 0], (2 * torch.arange(6) + 1) / 6 - 1)
    torch.testing.assert_close(points[0, :, 0, 1], (2 * torch.arange(4) + 1) / 4 - 1)
