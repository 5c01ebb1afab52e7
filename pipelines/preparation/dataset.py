"""A data set as it was read from its source."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pipelines.outputs.prepared_data import Labeled


class Source(NamedTuple):
    """What a source of images holds; ``test`` is None where it has no test images of its own."""

    train: Labeled
    test: Labeled | None
    classes: list[str]
    origin: str
    broken: Mapping[str, str] = MappingProxyType({})  # files that were left out, each with the reason
