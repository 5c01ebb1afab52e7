"""Batches: equal for any number of workers, each image once, augmented and normalized as documented."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import resized_crop

import stn.batches
from stn.augmentation import Augmentation
from stn.batches import LARGEST_BATCH, Batches, limit_batch
from stn.clutter import add_clutter
from stn.distortions import PROTOCOLS, Distortion, make_distortion
from stn.seeds import derive_seed
from stn.settings import Normalization

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
EVERYTHING = Augmentation(flip=True, shift=2, distortion=Distortion(rotation=40, scale=(0.7, 1.2), shift=0.1))


def random_images(count: int, channels: int = 3, height: int = 6, width: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def make_batches(images: torch.Tensor, augmentation: Augmentation = Augmentation()) -> Batches:
    """Make batches in which the label of each image is its index."""
    channels = images.shape[1]
    normalization = Normalization(MEAN[:channels], STD[:channels])
    return Batches(images, torch.arange(len(images)), normalization, CPU, augmentation)


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Normalize pixels scaled to [0, 1] by mean and standard deviation of each channel, in double precision."""
    channels = images.shape[1]
    mean, std = np.reshape(MEAN[:channels], (-1, 1, 1)), np.reshape(STD[:channels], (-1, 1, 1))
    return torch.from_numpy((images.double().numpy() / 255 - mean) / std).float()


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Convert normalized images to uint8."""
    channels = images.shape[1]
    mean, std = torch.tensor(MEAN[:channels]).view(-1, 1, 1), torch.tensor(STD[:channels]).view(-1, 1, 1)
    return ((images * std + mean) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("batch_size", [6, 8])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_global_batch_is_the_same_for_any_number_of_workers(batch_size, world_size):
    batches = make_batches(random_images(29), EVERYTHING)
    alone = list(batches.shuffled(batch_size, seed=5, epoch=2))
    shares = [list(batches.shuffled(batch_size, 5, 2, rank, world_size)) for rank in range(world_size)]
    assert [len(share) for share in shares] == [len(alone)] * world_size == [29 // batch_size] * world_size
    for step, (images, labels) in enumerate(alone):
        for rank, share in enumerate(shares):  # ranks take every world_size-th image
            assert torch.equal(share[step][1], labels[rank::world_size])
            torch.testing.assert_close(share[step][0], images[rank::world_size], atol=1e-5, rtol=0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_is_independent_of_batch_size_and_workers_and_changes_each_epoch(protocol):
    batches = make_batches(random_images(12, 2, 12, 12), Augmentation(True, 2, make_distortion(protocol)))
    alone = torch.cat([images for images, _ in batches.shuffled(4, seed=5, epoch=2)])
    halves = torch.cat([images for images, _ in batches.shuffled(6, seed=5, epoch=2)])
    torch.testing.assert_close(alone, halves, atol=1e-5, rtol=0)
    shares = [torch.cat([images for images, _ in batches.shuffled(4, 5, 2, rank, 2)]) for rank in (0, 1)]
    torch.testing.assert_close(torch.stack(shares, 1).flatten(0, 1), alone, atol=1e-5, rtol=0)
    order = torch.cat([labels for _, labels in batches.shuffled(4, seed=5, epoch=2)]).argsort()
    again = torch.cat([labels for _, labels in batches.shuffled(4, seed=5, epoch=3)]).argsort()
    later = torch.cat([images for images, _ in batches.shuffled(4, seed=5, epoch=3)])
    assert ((alone[order] - later[again]).abs().amax((1, 2, 3)) > 0.1).all()


def test_clutter_is_cut_from_the_original_images(monkeypatch):
    """Margins and mirrored copies have other pixels at the same position."""
    images, sources = random_images(8, 2, 12, 12), []

    def record_sources(*arguments):
        sources.append(arguments[2])
        return add_clutter(*arguments)

    monkeypatch.setattr(stn.batches, "add_clutter", record_sources)
    augmentation = Augmentation(flip=True, shift=2, distortion=make_distortion("TC"))
    assert len(list(make_batches(images, augmentation).shuffled(4, 0, 0))) == 2
    assert all(torch.equal(given, images) for given in sources) and len(sources) == 2


def test_order_and_augmentation_do_not_depend_on_the_batch_size():
    batches = make_batches(random_images(24), EVERYTHING)
    by_4, by_8 = (list(batches.shuffled(size, seed=0, epoch=0)) for size in (4, 8))
    images_4, images_8 = (torch.cat([images for images, _ in epoch]) for epoch in (by_4, by_8))
    torch.testing.assert_close(images_4, images_8, atol=1e-5, rtol=0)


def test_epochs_and_seeds_differ_and_a_repeat_is_exact():
    batches = make_batches(random_images(16), EVERYTHING)

    def epoch(seed: int, number: int) -> torch.Tensor:
        return torch.cat([images for images, _ in batches.shuffled(4, seed, number)])

    first = epoch(0, 1)
    torch.manual_seed(1)  # the global generator has no effect
    assert torch.equal(epoch(0, 1), first)
    for other in [(0, 2), (1, 1), (1, 0)]:
        assert not torch.equal(epoch(*other), first), other
    assert len({derive_seed(seed, number) for seed in range(30) for number in range(30)}) == 900


IMBALANCED = torch.tensor([0] * 20 + [1] * 3 + [2] * 1)


def balanced_batches(augmentation: Augmentation) -> Batches:
    """Make batches of images that differ in all pixels; there are 20, 3 and 1 of the classes."""
    return Batches(random_images(24), IMBALANCED, Normalization(MEAN, STD), CPU, augmentation, sampler="balanced")


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_balanced_batches_are_the_same_for_any_number_of_workers(mixup):
    batches = balanced_batches(replace(EVERYTHING, mixup=mixup))
    alone = list(batches.shuffled(6, 5, 2))
    shares = [list(batches.shuffled(6, 5, 2, rank, 3)) for rank in range(3)]
    assert len(alone) == 4
    for step, (images, labels) in enumerate(alone):
        for rank, share in enumerate(shares):
            assert torch.equal(share[step][1], labels[rank::3])
            torch.testing.assert_close(share[step][0], images[rank::3], atol=1e-5, rtol=0)
    labels = torch.cat([labels for _, labels in alone])
    assert (labels.sum(0).max() < 16) if mixup else (labels.bincount().tolist() == [8, 8, 8])


def test_an_image_that_is_drawn_again_in_an_epoch_is_augmented_anew():
    batches = balanced_batches(EVERYTHING)
    ((images, labels),) = batches.shuffled(24, 0, 0)
    same = images[labels == 2]
    assert len(same) == 8, "the only image of its class"
    assert (torch.cdist(same.flatten(1), same.flatten(1)) + 10 * torch.eye(8) > 1).all()


def test_unaugmented_balanced_batches_show_the_images_of_their_labels():
    batches = balanced_batches(Augmentation())
    ((images, labels),) = batches.shuffled(24, 0, 1)
    originals = normalized(random_images(24))
    found = torch.cdist(images.flatten(1), originals.flatten(1)).argmin(1)
    torch.testing.assert_close(images, originals[found])
    assert torch.equal(IMBALANCED[found], labels)
    assert found.bincount(minlength=24)[20:].tolist() in ([3, 3, 2, 8], [3, 2, 3, 8], [2, 3, 3, 8])


def test_each_image_occurs_at_most_once_an_epoch_and_the_left_over_images_vary():
    batches = make_batches(random_images(22))
    left_over = set()
    for epoch in range(12):
        batched = [labels.tolist() for _, labels in batches.shuffled(5, seed=0, epoch=epoch)]
        assert [len(labels) for labels in batched] == [5, 5, 5, 5]
        seen = {label for labels in batched for label in labels}
        assert len(seen) == 20
        left_over |= set(range(22)) - seen
    assert len(left_over) > 8


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING], ids=["plain", "augmented"])
@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 1), (100, 1), (4, 2), (3, 5), (1, 3)])
def test_ordered_gives_every_image_once_in_order_and_never_augmented(batch_size, world_size, augmentation):
    images = random_images(23)
    batches = make_batches(images, augmentation)
    assert len(batches) == 23
    for rank in range(world_size):
        share = list(batches.ordered(batch_size, rank, world_size))
        assert torch.cat([labels for _, labels in share]).tolist() == list(range(rank, 23, world_size))
        assert max(len(labels) for _, labels in share) <= batch_size
        torch.testing.assert_close(torch.cat([images for images, _ in share]), normalized(images[rank::world_size]))


@pytest.mark.parametrize("channels", [1, 3])
def test_without_augmentation_images_are_only_normalized_and_keep_their_labels(channels):
    images = random_images(20, channels)
    orders = []
    for batch, labels in make_batches(images).shuffled(5, seed=0, epoch=0):
        assert batch.dtype == torch.float32
        torch.testing.assert_close(batch, normalized(images)[labels])
        orders += labels.tolist()
    assert orders != sorted(orders)


@pytest.mark.parametrize(("flips", "axis"), [({"flip": True}, -1), ({"vertical_flip": True}, -2)])
def test_flip_gives_the_image_or_its_mirror_half_the_time(flips, axis):
    images = random_images(400, channels=1, height=3, width=4)
    batches = make_batches(images, Augmentation(**flips))
    mirrored = []
    for epoch in range(2):
        ((batch, labels),) = batches.shuffled(400, seed=0, epoch=epoch)
        same = (pixels(batch) == images[labels]).flatten(1).all(1)
        mirror = (pixels(batch) == images[labels].flip(axis)).flatten(1).all(1)
        assert (same ^ mirror).all()
        assert 160 < mirror.sum() < 240  # four standard deviations
        mirrored.append(mirror[labels.argsort()])
    assert 0.4 < (mirrored[0] == mirrored[1]).float().mean() < 0.6  # drawn again in each epoch


@pytest.mark.parametrize(
    "flips", [{}, {"flip": True}, {"vertical_flip": True}, {"flip": True, "vertical_flip": True}], ids=str
)
def test_shift_is_a_crop_of_the_image_padded_by_reflection(flips):
    shift, height, width = 2, 6, 9
    images = random_images(1500, channels=1, height=height, width=width)
    padded = F.pad(images.float(), [shift] * 4, mode="reflect").to(torch.uint8)
    found = torch.zeros(2, 2, 2 * shift + 1, 2 * shift + 1)
    ((batch, labels),) = make_batches(images, Augmentation(shift=shift, **flips)).shuffled(1500, seed=0, epoch=0)
    for image, label in zip(pixels(batch), labels, strict=True):
        crops = padded[label].unfold(1, height, 1).unfold(2, width, 1)[0]  # (rows, columns, height, width)
        crops = torch.stack([crops, crops.flip(-1)])
        crops = torch.stack([crops, crops.flip(-2)])
        (index,) = (crops == image).flatten(4).all(4).nonzero()
        found[*index] += 1
    found = found[: 1 + flips.get("vertical_flip", False), : 1 + flips.get("flip", False)]
    assert found.sum() == 1500
    # All offsets and flips are equally frequent, within four standard deviations.
    mean = 1500 / found.numel()
    assert (found - mean).abs().max() < 4 * mean**0.5


def test_a_distortion_uncovers_black_not_the_mean_color():
    images = torch.full((4, 3, 8, 12), 200, dtype=torch.uint8)
    half_as_large = Augmentation(distortion=Distortion(scale=(0.5, 0.5)))
    ((batch, _),) = make_batches(images, half_as_large).shuffled(4, seed=0, epoch=0)
    expected = torch.zeros_like(images)
    expected[:, :, 2:6, 3:9] = 200
    torch.testing.assert_close(batch, normalized(expected), atol=1e-4, rtol=0)


def test_a_distortions_padding_mode_is_used():
    images = torch.full((16, 1, 6, 6), 200, dtype=torch.uint8)
    distortion = Distortion(rotation=90, scale=(0.4, 0.6), shift=0.3, padding_mode="border")
    ((batch, _),) = make_batches(images, Augmentation(distortion=distortion)).shuffled(16, seed=0, epoch=0)
    torch.testing.assert_close(batch, normalized(images), atol=1e-4, rtol=0)


def test_a_rotation_is_rigid_on_wide_images():
    # A round, smooth blob does not change when it is rotated, but changes when it is stretched.
    y, x = torch.meshgrid(torch.arange(17) - 8.0, torch.arange(33) - 16.0, indexing="ij")
    blob = (255 * torch.exp(-(x**2 + y**2) / 18)).round().to(torch.uint8)
    batches = make_batches(blob.expand(32, 1, 17, 33), Augmentation(distortion=Distortion(rotation=90)))
    ((batch, _),) = batches.shuffled(32, seed=0, epoch=0)
    assert (pixels(batch).int() - blob.int()).abs().max() < 12


EVERY_CHANGE = Augmentation(
    flip=True,
    shift=2,
    distortion=EVERYTHING.distortion,
    crop=(0.3, 1.0),
    color_jitter=0.4,
    mixup=0.4,
    vertical_flip=True,
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_crops_colors_and_mixtures_are_the_same_for_any_number_of_workers_and_any_batch_size(channels, world_size):
    batches = make_batches(random_images(29, channels), EVERY_CHANGE)
    alone = list(batches.shuffled(8, seed=5, epoch=2))
    shares = [list(batches.shuffled(8, 5, 2, rank, world_size)) for rank in range(world_size)]
    for step, (images, labels) in enumerate(alone):
        assert labels.shape == (8, 29)
        torch.testing.assert_close(labels.sum(1), torch.ones(8))
        for rank, share in enumerate(shares):
            assert torch.equal(share[step][1], labels[rank::world_size])
            torch.testing.assert_close(share[step][0], images[rank::world_size], atol=1e-4, rtol=0)
    by_4 = torch.cat([images for images, _ in batches.shuffled(4, 5, 2)])[:24]
    torch.testing.assert_close(by_4, torch.cat([images for images, _ in alone]), atol=1e-4, rtol=0)
    later = torch.cat([images for images, _ in batches.shuffled(8, 5, 3)])
    assert not torch.equal(later, torch.cat([images for images, _ in alone]))


@pytest.mark.parametrize("change", [{"crop": (0.3, 0.9)}, {"color_jitter": 0.4}, {"mixup": 0.4}], ids=str)
def test_each_change_alone_has_an_effect_and_keeps_the_order_the_flips_and_the_shifts(change):
    images = random_images(24)
    batches = [make_batches(images, replace(EVERYTHING, **more)) for more in ({}, change)]
    draws = []
    for each in batches:
        generator = torch.Generator().manual_seed(derive_seed(0, 0))
        draws.append((torch.randperm(24, generator=generator), each.augmentation.draw(24, (6, 9), generator)))
    (order, before), (same_order, after) = draws
    assert torch.equal(order, same_order)
    for first, second in zip(before[:3], after[:3], strict=True):
        assert first is not None and second is not None and torch.equal(first, second)
    ((plain, _),), ((changed, _),) = (each.shuffled(24, 0, 0) for each in batches)
    assert ((plain - changed).abs().amax((1, 2, 3)) > 0.01).sum() > 20, "a share may be almost 1"


def test_the_distortion_grows_in_the_epochs_of_its_ramp():
    images, distortion = random_images(24), EVERYTHING.distortion
    for epoch, share in ((0, 0.25), (1, 0.5), (2, 0.75), (3, None), (9, None)):
        expected = replace(EVERY_CHANGE, distortion=distortion if share is None else distortion.shrunk(share))
        ramped, fixed = (
            make_batches(images, each).draw(5, epoch) for each in (replace(EVERY_CHANGE, distortion_ramp=3), expected)
        )
        assert torch.equal(ramped.order, fixed.order)
        for one, other in zip(ramped.draws, fixed.draws, strict=True):
            if one is None or other is None:
                assert one is other
            else:
                assert torch.equal(one, other), epoch
    still = Augmentation(flip=True, shift=2)
    ((images_without, _),), ((images_with, _),) = (
        make_batches(images, each).shuffled(24, 0, 0) for each in (still, replace(still, distortion_ramp=3))
    )
    assert torch.equal(images_without, images_with), "there is no distortion"


def test_a_mixture_is_the_weighted_mean_of_two_augmented_images():
    images = random_images(16)
    unmixed = replace(EVERY_CHANGE, mixup=0.0)
    ((alone, labels),) = make_batches(images, unmixed).shuffled(16, 0, 0)
    ((mixed, probabilities),) = make_batches(images, EVERY_CHANGE).shuffled(16, 0, 0)
    augmented = alone[labels.argsort()]  # by the index of the image, which is its label
    expected = torch.einsum("bn,nchw->bchw", probabilities, augmented)
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)
    assert ((probabilities > 0).sum(1) <= 2).all()
    own = probabilities[torch.arange(16), labels]
    assert (own > 0.5).any() and (own < 0.5).any()


def test_the_probabilities_of_a_mixture_have_all_classes():
    few = Batches(random_images(6), torch.zeros(6).long(), Normalization(MEAN, STD), CPU, EVERY_CHANGE, classes=7)
    ((_, probabilities),) = few.shuffled(6, 0, 0)
    assert probabilities.shape == (6, 7) and (probabilities[:, 0] == 1).all()


def test_a_crop_adds_no_black_and_colors_stay_within_the_range_of_pixels():
    white = torch.full((64, 3, 9, 6), 255, dtype=torch.uint8)
    ((batch, _),) = make_batches(white, Augmentation(crop=(0.1, 0.9))).shuffled(64, 0, 0)
    torch.testing.assert_close(batch, normalized(white), atol=1e-4, rtol=0)
    images = random_images(64)
    batches = make_batches(images, Augmentation(color_jitter=1.0))
    ((batch, _),) = batches.shuffled(64, 0, 0)
    values = batches.denormalize(batch)
    assert values.min() >= -1e-3 and values.max() <= 255.001
    assert values.min() < 1e-3 and values.max() > 254.999


@pytest.mark.parametrize("protocol", ["R", "P", "E"])
def test_a_crop_shows_a_window_of_the_distorted_image(protocol):
    """Resampling once or twice is nearly the same for a smooth image."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 48), torch.linspace(0, 4, 48), indexing="ij")
    smooth = (128 + 60 * torch.sin(x + 1) * torch.cos(y) + 60 * torch.sin(2 * y + x)).round().to(torch.uint8)
    distortion = make_distortion(protocol, "border")
    images = smooth.expand(12, 1, 48, 48)
    augmentation = Augmentation(distortion=distortion, crop=(0.3, 0.8))
    generator = torch.Generator().manual_seed(derive_seed(0, 0))
    torch.randperm(12, generator=generator)
    windows = augmentation.draw(12, (48, 48), generator).windows
    ((distorted, order),) = make_batches(images, Augmentation(distortion=distortion)).shuffled(12, 0, 0)
    ((cropped, _),) = make_batches(images, augmentation).shuffled(12, 0, 0)
    assert windows is not None
    for image, window, crop in zip(distorted, windows[order].int().tolist(), cropped, strict=True):
        expected = resized_crop(image, *window, size=[48, 48])
        assert (crop - expected).abs().mean() < 0.02, "in units of the standard deviation of pixels"


def test_clutter_lies_on_the_crop(monkeypatch):
    images = random_images(8, 1, 24, 24)
    batches = make_batches(images, Augmentation(distortion=make_distortion("TC"), crop=(0.3, 0.8)))
    ((cluttered, _),) = batches.shuffled(8, 0, 0)
    pieces = []
    monkeypatch.setattr(stn.batches, "add_clutter", lambda *arguments: pieces.append(arguments[1]) or arguments[0])
    ((plain, _),) = batches.shuffled(8, 0, 0)
    frame = batches.augmentation.distortion.frame(24, 24)
    expected = add_clutter(batches.denormalize(plain), pieces[0], images, frame)
    torch.testing.assert_close(batches.denormalize(cluttered), expected, atol=1e-3, rtol=0)
    assert not torch.equal(cluttered, plain)


def test_a_batch_has_a_bounded_number_of_values():
    small = Batches(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), Normalization(MEAN, STD), CPU)
    assert limit_batch(small, 1000) == 1000
    large = Batches(
        torch.zeros(1, 3, 1024, 1024, dtype=torch.uint8), torch.zeros(1).long(), Normalization(MEAN, STD), CPU
    )
    assert limit_batch(large, 1000) == LARGEST_BATCH // (3 * 1024 * 1024) == 5
