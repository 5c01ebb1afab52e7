"""Where the images are kept changes no pixel of any batch."""

import threading

import pytest
import torch
import torch.nn.functional as F

from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.distortions import Distortion, make_distortion
from stn.pixels import HostStore, Pixels, Residency, device_bytes, pack
from stn.settings import Normalization

CPU = torch.device("cpu")
AUGMENTATIONS = {
    "none": Augmentation(),
    "flip": Augmentation(flip=True),
    "shift": Augmentation(shift=3),
    "both flips": Augmentation(flip=True, shift=3, vertical_flip=True),
    "clutter": Augmentation(True, 2, make_distortion("TC")),
    "mixed": Augmentation(True, 1, Distortion(rotation=30), (0.5, 1.0), color_jitter=0.2, mixup=0.5),
    "mixed clutter": Augmentation(True, 1, make_distortion("TC"), mixup=1.0),
}
ELSEWHERE = {"without mirrored copies": Residency(mirrored=False), "host": Residency(on_device=False)}


def random_images(count: int, channels: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
    return torch.randint(256, (count, channels, height, width), generator=torch.Generator().manual_seed(count)).byte()


def make_batches(
    images, augmentation: Augmentation, residency: Residency = Residency(), sampler: str = "uniform"
) -> Batches:
    count = len(images) if isinstance(images, torch.Tensor) else sum(map(len, images))
    channels = images[0].shape[-3]
    normalization = Normalization([0.4] * channels, [0.3] * channels)
    return Batches(
        images, torch.arange(count) % 7, normalization, CPU, augmentation, classes=7, residency=residency,
        sampler=sampler,
    )  # fmt: skip


@pytest.mark.parametrize(("channels", "sampler"), [(1, "uniform"), (3, "uniform"), (1, "balanced")])
@pytest.mark.parametrize("residency", ELSEWHERE.values(), ids=ELSEWHERE)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_batches_are_the_same_bit_for_bit(augmentation, residency, channels, sampler):
    images = random_images(23, channels)
    expected, found = (make_batches(images, augmentation, where, sampler) for where in (Residency(), residency))
    for rank, world_size in [(0, 1), (1, 2)]:
        pairs = [
            (batches.shuffled(6, 3, 1, rank, world_size), other.shuffled(6, 3, 1, rank, world_size))
            for batches, other in [(expected, found)]
        ] + [(expected.ordered(4, rank, world_size), found.ordered(4, rank, world_size))]
        for first, second in pairs:
            batches = list(zip(first, second, strict=True))
            assert len(batches) > 2
            for (image, label), (other_image, other_label) in batches:
                assert torch.equal(image, other_image) and image.stride() == other_image.stride()
                assert torch.equal(label, other_label)
    assert torch.equal(expected.pixels([5, 0, 22]), found.pixels([5, 0, 22]))
    assert torch.equal(found.pixels([5, 0, 22]), images[[5, 0, 22]])


@pytest.mark.parametrize("residency", [Residency(), *ELSEWHERE.values()])
def test_several_tensors_are_one_data_set(residency):
    images, augmentation = random_images(20), AUGMENTATIONS["mixed clutter"]
    together = make_batches(images, augmentation)
    apart = make_batches([images[:7], images[7:8], images[8:]], augmentation, residency)
    for (image, label), (other_image, other_label) in zip(
        together.shuffled(5, 0, 0), apart.shuffled(5, 0, 0), strict=True
    ):
        assert torch.equal(image, other_image) and torch.equal(label, other_label)
    whole = torch.cat([image for image, _ in apart.ordered(6)])
    assert torch.equal(whole, torch.cat([image for image, _ in together.ordered(20)]))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("margin", [0, 1, 4])
def test_packed_images_have_a_reflected_margin(margin, mirrored):
    images = random_images(5, 3, 5, 7)
    stored = pack([images[:2], images[2:]], CPU, margin, mirrored=mirrored)
    assert stored.is_contiguous() and stored.numel() == device_bytes(5, (3, 5, 7), margin, mirrored)
    padded = F.pad(images.float(), [margin] * 4, mode="reflect").byte() if margin else images
    expected = torch.cat((padded, padded.flip(3))) if mirrored else padded
    assert torch.equal(stored.permute(0, 3, 1, 2), expected)
    assert torch.equal(Pixels(stored, margin, mirrored=mirrored).originals.permute(0, 3, 1, 2), images)


def test_a_stream_reads_only_what_is_needed_soon():
    """A batch that is not near is not read: it may not fit into memory."""
    asked = []

    def needed(step: torch.Tensor) -> torch.Tensor:
        asked.append(step)
        return step

    steps = [torch.tensor([i]) for i in range(50)]
    stream = HostStore([random_images(50)], CPU).stream(steps, needed)
    for _ in range(3):
        next(stream)
    assert len(asked) <= 3 + 2
    del stream
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("batches", "readers"))]


def test_a_read_error_reaches_the_caller():
    def needed(step: torch.Tensor) -> torch.Tensor:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        next(iter(HostStore([random_images(3)], CPU).stream([torch.tensor([0])], needed)))
