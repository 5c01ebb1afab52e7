"""Write the files of the splits in chunks, so that the images need not fit into memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.outputs.labeled_files import LabeledWriter
from pipelines.outputs.prepared_data import UNDISTORTED
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.preparation.splits import SplitRows
from stn.distortions import Distortion, distort_in_chunks
from stn.seeds import derive_seed
from stn.settings import Normalization

MIN_STD = 1 / 255  # for a channel with one value everywhere, so that nothing is divided by zero
# Up to this number of values, mean and standard deviation are computed from one fp32 tensor. Its sums differ from exact
# ones in the sixth digit, and trained weights depend on these digits.
ONE_TENSOR = 2**28
CHUNK_BYTES = 2**25


def write_splits(
    raw: RawDataset, rows: SplitRows, distortion: Distortion, seed: int, folder: Path, *, digest: Any
) -> None:  # fmt: skip
    """Write the files of all splits; training images undistorted, validation and test images distorted.

    If there is a distortion, the validation images are also written undistorted. If it has a canvas, all images are
    placed on it.

    Args:
        raw: the images.
        rows: the images of each split.
        seed: of the distortions; each split has random numbers of its own.
        digest: an object of hashlib that is updated with the stored images and labels.

    Raises:
        OSError: a file cannot be written.
    """
    shape = image_shape(raw, distortion)

    def read(of_split: np.ndarray, number: int) -> Iterator[Tensor]:
        """Yield the images in some rows in chunks, uint8 (n, C, H, W); those of split 0 are not distorted."""
        index = torch.from_numpy(of_split)
        return distort_in_chunks(
            lambda chunk: distortion.onto_canvas(raw.images[index[chunk]]), (len(index), *shape),
            distortion if number else Distortion(), torch.Generator().manual_seed(derive_seed(seed, number)),
        )  # fmt: skip

    for number, (name, of_split) in enumerate(rows._asdict().items()):
        labels = raw.labels[torch.from_numpy(of_split)]
        with LabeledWriter(folder / f"{name}.safetensors", labels, shape) as file:
            for images in read(of_split, number):
                file.write(images)
                digest.update(images.contiguous().numpy().data)
        digest.update(labels.numpy().data)
    if not distortion.is_identity:
        labels = raw.labels[torch.from_numpy(rows.validation)]
        with LabeledWriter(folder / f"{UNDISTORTED}.safetensors", labels, shape) as file:
            for images in read(rows.validation, 0):
                file.write(images)


def image_shape(raw: RawDataset, distortion: Distortion) -> tuple[int, int, int]:
    """Channels, height and width of the stored images: those of the canvas, if there is one."""
    channels, height, width = raw.images.shape[1:]
    return (channels, *distortion.framed(height, width))


def measure_channels(images: Tensor) -> Normalization:
    """Mean and standard deviation of each channel of images uint8 (N, C, H, W), scaled to [0, 1]."""
    if images.numel() <= ONE_TENSOR:
        scaled = images.float().div_(255)
        mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
        return Normalization(mean.tolist(), std.clamp(min=MIN_STD).tolist())
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)  # of each value
    for chunk in images.split(max(1, CHUNK_BYTES // images[0].numel())):
        for channel in range(channels):
            counts[channel] += np.bincount(chunk[:, channel].flatten().numpy(), minlength=256)
    values, number = np.arange(256) / 255, counts[0].sum()
    mean = counts @ values / number
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / (number - 1)
    return Normalization(mean.tolist(), np.maximum(np.sqrt(variance), MIN_STD).tolist())
