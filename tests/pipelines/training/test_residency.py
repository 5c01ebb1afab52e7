"""train.residency: images are kept on the device where they fit, and never in a way that they do not."""

import pytest
import torch

from pipelines.outputs.labeled_files import Labeled
from pipelines.outputs.prepared_data import TrainingSplits
from pipelines.runtime.errors import UserError
from pipelines.training import residency as module
from pipelines.training.residency import bytes_on_device, choose_residency
from stn.augmentation import Augmentation
from stn.pixels import Residency

CPU = torch.device("cpu")
HOST, DEVICE, UNMIRRORED = Residency(on_device=False), Residency(), Residency(mirrored=False)
AUGMENTED = Augmentation(flip=True, shift=2)


def splits(count: int = 10, validation: int = 5) -> TrainingSplits:
    def split(count: int) -> Labeled:
        return Labeled(torch.empty(1, 3, 8, 6, dtype=torch.uint8).expand(count, 3, 8, 6), torch.zeros(count))

    return TrainingSplits([split(count - 3), split(3)], split(validation))


WITHOUT = 10 * 3 * 12 * 10 + 5 * 3 * 8 * 6  # with margins of 2 pixels around the training images
WITH = WITHOUT + 10 * 3 * 12 * 10


def test_what_is_needed_has_margins_mirrored_copies_and_both_splits():
    assert bytes_on_device(splits(), AUGMENTED, mirrored=False) == WITHOUT
    assert bytes_on_device(splits(), AUGMENTED, mirrored=True) == WITH
    assert bytes_on_device(splits(), Augmentation(), mirrored=True) == 15 * 3 * 8 * 6


@pytest.mark.parametrize(
    ("setting", "free", "expected"),
    [
        ("auto", 2 * WITH, DEVICE),
        ("auto", 2 * WITH - 2, UNMIRRORED),
        ("auto", 2 * WITHOUT, UNMIRRORED),
        ("auto", 2 * WITHOUT - 2, HOST),
        ("device", 2 * WITH, DEVICE),
        ("device", 2 * WITH - 2, UNMIRRORED),
        ("device", WITHOUT, UNMIRRORED),
        ("host", 2**60, HOST),
    ],
)
def test_the_images_are_kept_where_they_fit(monkeypatch, setting, free, expected):
    monkeypatch.setattr(module, "free_memory", lambda: free)
    assert choose_residency(setting, splits(), AUGMENTED, CPU) == expected


def test_processes_divide_the_memory(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 4 * WITH)
    assert choose_residency("auto", splits(), AUGMENTED, CPU, sharing=2) == DEVICE
    assert choose_residency("auto", splits(), AUGMENTED, CPU, sharing=3) == UNMIRRORED


@pytest.mark.parametrize(("sharing", "free"), [(1, 6), (2, 4), (4, 2)])
def test_processes_that_share_a_gpu_get_no_more_than_their_share(monkeypatch, sharing, free):
    """The others may have taken their share already, or not yet."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6, 8))
    assert module.free_on(torch.device("cuda"), sharing) == free


def test_images_that_do_not_fit_are_refused_with_the_setting(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: WITHOUT - 1)
    with pytest.raises(UserError, match=r"train\.residency: device given.*use auto or host"):
        choose_residency("device", splits(), AUGMENTED, CPU)


@pytest.mark.parametrize(("sharing", "expected"), [(1, DEVICE), (2, HOST)])
def test_processes_on_cpus_share_the_pages_of_large_files(monkeypatch, sharing, expected):
    monkeypatch.setattr(module, "SMALL_BYTES", WITH - 1)
    assert choose_residency("auto", splits(), AUGMENTED, CPU, sharing) == expected
    monkeypatch.setattr(module, "SMALL_BYTES", WITH)
    assert choose_residency("auto", splits(), AUGMENTED, CPU, sharing) == DEVICE
