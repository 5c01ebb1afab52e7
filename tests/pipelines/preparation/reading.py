"""Reads a source for tests: the images of each of its splits."""

import tempfile
from pathlib import Path

import torch

from pipelines.outputs.labeled_files import Labeled
from pipelines.preparation.decoding import read_images
from pipelines.preparation.listing import Split
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.preparation.sources import list_images
from pipelines.settings.data_params import DataParams


class Source:
    """A data set and the parts that its source has."""

    def __init__(self, raw: RawDataset):
        self.raw, self.classes, self.broken, self.pixel_range = raw, raw.classes, raw.broken, raw.pixel_range
        self.images, self.labels, self.origin, self.groups = raw.images, raw.labels, raw.origin, raw.groups
        self.splits, self.left_alone = raw.splits, raw.left_alone

    def part(self, split: Split) -> Labeled | None:
        rows = torch.from_numpy(self.raw.rows(split))
        return Labeled(self.raw.images[rows], self.raw.labels[rows]) if len(rows) else None

    @property
    def train(self) -> Labeled:
        part = self.part("train")
        assert part is not None
        return part

    @property
    def validation(self) -> Labeled | None:
        return self.part("validation")

    @property
    def test(self) -> Labeled | None:
        return self.part("test")


def read_source(data: DataParams) -> Source:
    """Read a source as prepare does."""
    with tempfile.TemporaryDirectory() as folder:
        return Source(read_images(data, list_images(data), Path(folder)))
