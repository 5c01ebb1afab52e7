"""Decides whether a training keeps its images on the device, by the setting ``train.residency`` and the free memory."""

import torch

from pipelines.outputs.prepared_data import TrainingSplits
from pipelines.runtime.errors import UserError
from pipelines.runtime.free_memory import free_memory
from stn.augmentation import Augmentation
from stn.pixels import Residency, device_bytes

SHARE = 0.5  # of the free memory that `auto` gives to images; the network and its batches need the rest
# Copies of this size in each of several processes are no burden, and batches from the device are a little faster.
SMALL_BYTES = 2**26
GIB = 2**30


def choose_residency(
    setting: str, splits: TrainingSplits, augmentation: Augmentation, device: torch.device, sharing: int = 1
) -> Residency:
    """Choose where the images of both splits are kept.

    ``auto`` keeps them on the device if they fit. Several processes on CPUs share the pages of the memory-mapped files
    instead, unless the images are few.

    Args:
        setting: ``auto``, ``device`` or ``host``.
        splits: training and validation images.
        augmentation: of the training images; it determines margins and mirrored copies.
        device: device of the training.
        sharing: number of processes that share the memory of the device.

    Raises:
        UserError: ``device`` is set, and the images do not fit.
    """
    if setting == "host":
        return Residency(on_device=False)
    free = free_on(device, sharing)
    with_copies, without = (bytes_on_device(splits, augmentation, mirrored) for mirrored in (True, False))
    if setting == "auto" and device.type == "cpu" and sharing > 1 and with_copies > SMALL_BYTES:
        return Residency(on_device=False)
    if with_copies <= SHARE * free:
        return Residency()
    if without <= (SHARE if setting == "auto" else 1) * free:
        return Residency(mirrored=False)
    if setting == "auto":
        return Residency(on_device=False)
    raise UserError(
        f"train.residency: device given; the images need {without / GIB:.1f} GiB on {device}, and {free / GIB:.1f} GiB "
        f"are free for this process; use auto or host"
    )


def bytes_on_device(splits: TrainingSplits, augmentation: Augmentation, mirrored: bool) -> int:
    """The bytes of both splits on the device, with or without the mirrored copies that the augmentation may need."""
    count, shape = sum(len(part.labels) for part in splits.training), splits.validation.images.shape[1:]
    training = device_bytes(count, shape, augmentation.shift, mirrored and augmentation.flip)
    return training + device_bytes(len(splits.validation.labels), shape, 0, False)


def free_on(device: torch.device, sharing: int) -> int:
    """The free bytes of a device for each of ``sharing`` processes."""
    if device.type != "cuda":
        return free_memory() // sharing
    free, total = torch.cuda.mem_get_info(device)
    return min(free, total // sharing)  # the others may have taken their share already
