"""Test images for the page, from the prepared data that a version was trained on."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.registry.prepared_by_digest import find_prepared

COUNT = 24


class Example(NamedTuple):
    """A test image, uint8 (C, H, W), and the name of its class."""

    pixels: np.ndarray
    label: str


def load_examples(digest: str) -> list[Example]:
    """Return test images of the prepared data with this digest, as many of each class as possible.

    Without these data here, the list is empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        if (found := find_prepared(digest, Path(folder) / "prepared")) is None:
            return []
        classes, test = load_meta(found).classes, load_split("test", found)
        labels = test.labels.numpy()
        # The first image of each class, then the second of each class, and so on.
        chosen = np.lexsort((labels, pd.Series(labels).groupby(labels).cumcount()))[:COUNT]
        return [Example(test.images[int(i)].clone().numpy(), classes[int(labels[i])]) for i in chosen]
