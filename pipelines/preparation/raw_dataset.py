"""A data set as read from its source, before it is split and distorted."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines.outputs.prepared_data import Labeled
from pipelines.preparation.listing import Split


class RawDataset(NamedTuple):
    """Images of one size with their labels.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        splits: the source's own split of each image, (N,); ``train`` if the source has no splits.
        classes: names, in the order of the labels.
        origin: a description of the source.
        broken: each file that was skipped, with the reason.
    """

    images: Tensor
    labels: Tensor
    splits: np.ndarray
    classes: list[str]
    origin: str
    broken: Mapping[str, str] = MappingProxyType({})

    def part(self, split: Split) -> Labeled | None:
        """The images of one split of the source, or None if it has none."""
        rows = torch.from_numpy(np.flatnonzero(self.splits == split))
        return Labeled(self.images[rows], self.labels[rows]) if len(rows) else None

    @property
    def train(self) -> Labeled:
        """All images, or the source's training images if it has a test split of its own."""
        part = self.part("train")
        assert part is not None
        return part

    @property
    def test(self) -> Labeled | None:
        """The source's test images, or None."""
        return self.part("test")
