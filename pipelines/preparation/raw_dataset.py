"""A data set as read from its source, before it is split and distorted."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pipelines.preparation.listing import Split
from pipelines.preparation.pixel_range import PixelRange


class RawDataset(NamedTuple):
    """Images of one size with their labels.

    Args:
        images: uint8 (N, C, H, W), memory-mapped.
        labels: int64 (N,).
        splits: the source's own split of each image, (N,); ``train`` if the source has no splits.
        classes: names, in the order of the labels.
        origin: a description of the source.
        hashes: of the pixels of each image, uint64 (N,), see :func:`pipelines.preparation.decoder.hash_pixels`.
        broken: each file that was skipped, with the reason.
        groups: number of each image's group, int64 (N,); images with the same number stay in one split. None: every
            image is a group of its own.
        pixel_range: black and white of the images with more than 8 bits; None if there is no such image.
        left_alone: descriptions of the files that are not used.
        fitted: number of images whose aspect ratio is not that of the form.
    """

    images: Tensor
    labels: Tensor
    splits: np.ndarray
    classes: list[str]
    origin: str
    hashes: np.ndarray
    broken: Mapping[str, str] = MappingProxyType({})
    groups: np.ndarray | None = None
    pixel_range: PixelRange | None = None
    left_alone: Sequence[str] = ()
    fitted: int = 0

    def rows(self, split: Split) -> np.ndarray:
        """The rows that the source has in a split, in ascending order."""
        return np.flatnonzero(self.splits == split)


def number_groups(names: Sequence[str | None]) -> np.ndarray | None:
    """Number groups by their names; an image without a group is one of its own. None if no image has a group."""
    if not any(name is not None for name in names):
        return None
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(i if name is None else name, len(numbers)) for i, name in enumerate(names)])
