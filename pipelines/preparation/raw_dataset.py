"""A data set as read from its source, before it is split and distorted."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pipelines.outputs.prepared_data import Labeled


class RawDataset(NamedTuple):
    """Images of one size with their labels.

    Args:
        train: all images, or the source's training images if it has a test split of its own.
        test: the source's test images, or None.
        classes: names, in the order of the labels.
        origin: a description of the source.
        broken: each file that was skipped, with the reason.
    """

    train: Labeled
    test: Labeled | None
    classes: list[str]
    origin: str
    broken: Mapping[str, str] = MappingProxyType({})
