"""Co-localization: images with known locations of the digits, and the loss compared with plain loops."""

import itertools
from math import nan

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.paper import colocalization
from experiments.paper.colocalization import (
    CANVAS,
    MAX_SHIFT,
    SCALE,
    colocalize,
    intersection_over_union,
    localize,
    place_on_canvas,
    random_centers,
    triplet_loss,
)
from experiments.paper.settings import load_params
from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.runtime.errors import ExternalError
from stn.localization import Localization
from stn.spatial_transformer import SpatialTransformer
from stn.transforms import Attention

DIGITS = torch.randint(1, 256, (20, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def crop(images: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    family = Attention(scale=SCALE)
    localization = Localization((1, CANVAS, CANVAS), family.identity, channels=[], kernel_sizes=[])
    return SpatialTransformer(localization, "border", family, (28, 28)).warp(images, centers)


@pytest.mark.parametrize("clutter", [0, 16])
def test_the_digit_is_at_the_returned_center(clutter):
    images, centers = place_on_canvas(DIGITS, DIGITS.flip(0), clutter, seed=3)
    assert images.shape == (20, 1, CANVAS, CANVAS) and centers.abs().max() <= MAX_SHIFT + 1e-6
    assert len(centers.unique(dim=0)) == 20
    seen = crop(images.float(), centers).round()
    if not clutter:
        assert torch.equal(seen, DIGITS.float()) and torch.equal(images.flatten(1).sum(1), DIGITS.flatten(1).sum(1))
    else:
        assert (seen >= DIGITS).all() and (images.flatten(1).sum(1) > DIGITS.flatten(1).sum(1)).all()


def test_intersection_over_union_is_that_of_counted_pixels():
    corners = torch.tensor([[0, 0, 0, 0], [10, 20, 14, 15], [0, 0, 28, 3], [5, 5, 50, 50], [3, 7, 3, 20]])
    for x1, y1, x2, y2 in corners.tolist():
        masks = torch.zeros(2, CANVAS, CANVAS, dtype=torch.bool)
        masks[0, y1 : y1 + 28, x1 : x1 + 28] = masks[1, y2 : y2 + 28, x2 : x2 + 28] = True
        expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        centers = (torch.tensor([[x1, y1], [x2, y2]]) + 14) * 2 / CANVAS - 1
        assert intersection_over_union(centers[:1], centers[1:]).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_loss_is_the_mean_hinge_of_all_pairs():
    crops, patches = torch.randn(2, 6, 5)
    hinges = [
        max(0.0, (0.5 * (one - other).square().sum() - (one - patch).square().sum() + 2).item())
        for one, patch in zip(crops, patches, strict=True)
        for other in crops
    ]
    assert triplet_loss(crops, patches, margin=2, pull=0.5).item() == pytest.approx(sum(hinges) / 36, rel=1e-5)


def test_patches_lie_within_the_image_and_cover_it():
    places = random_centers(torch.empty(1000, 2))
    assert places.abs().max() <= MAX_SHIFT
    assert places.min() < -0.95 * MAX_SHIFT and places.max() > 0.95 * MAX_SHIFT


def centers_of(images: torch.Tensor) -> torch.Tensor:
    """The centers (N, 2) of the 28×28 pixels that are not black."""
    pixels = images[:, 0] > images.min()
    x, y = pixels.any(1).int().argmax(1), pixels.any(2).int().argmax(1)
    return (torch.stack((x, y), 1) + 14) * 2 / CANVAS - 1


@pytest.mark.parametrize(
    ("losses", "found"), [((0.9, 0.1, nan), 100.0), ((0.1, 0.9, 0.5), 0.0), ((nan, nan, nan), None)]
)
def test_of_several_starts_the_one_with_the_lowest_loss_counts(monkeypatch, losses, found):
    """The second start finds the digits, the others find corners of the canvas."""
    loss = itertools.cycle(losses)

    def localized(images, *_):
        centers, of_start = centers_of(images), next(loss)
        return (centers if of_start == losses[1] else -centers.sign() * MAX_SHIFT), of_start

    meta = DatasetMeta(
        dataset="mnist", source="memory", classes=[str(digit) for digit in range(10)], image_shape=(1, 28, 28),
        counts={}, mean=[0.0], std=[1.0], distortion={}, duplicates={}, broken={}, digest="0" * 64,
    )  # fmt: skip
    monkeypatch.setattr(colocalization, "load_meta", lambda folder: meta)
    monkeypatch.setattr(colocalization, "load_split", lambda name, folder: Labeled(DIGITS, torch.full((20,), 4)))
    monkeypatch.setattr(colocalization, "train_encoder", lambda digits, meta, params: lambda crops: crops)
    monkeypatch.setattr(colocalization, "localize", localized)
    params = load_params()
    own = params.colocalization.model_copy(update={"starts": 3, "clutter": 0})
    params = params.model_copy(update={"colocalization": own})
    if found is None:
        with pytest.raises(ExternalError, match="digit 4 T: no start has a finite loss"):
            colocalize(4, params)
    else:
        result = colocalize(4, params)
        assert (result.digit, result.images, result.T, result.TC) == (4, 20, found, found)


@pytest.mark.slow
def test_the_common_shape_is_found_and_the_loss_shows_it():
    """Each of 60 images shows a cross. The encoding is the mean over squares of 4×4 pixels; there are no labels."""
    torch.manual_seed(0)
    shape = torch.zeros(60, 1, 28, 28, dtype=torch.uint8)
    shape[:, :, 11:17, 3:25] = shape[:, :, 3:25, 11:17] = 255
    images, centers = place_on_canvas(shape, shape, 0, seed=1)
    encoder = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    length = encoder(shape.float()).norm(dim=1).mean()
    settings = load_params().colocalization.model_copy(update={"steps": 150})
    found, loss = localize(images.float(), lambda crops: encoder(crops) / length, settings)
    assert (intersection_over_union(found, centers) > 0.5).float().mean() > 0.9
    elsewhere = F.relu(torch.tensor(settings.margin)).item()  # the loss if crops and patches are all black
    assert loss < 0.6 * elsewhere
