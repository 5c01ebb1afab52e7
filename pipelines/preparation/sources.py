"""Read a data set from its source: torchvision, scikit-learn's digits, or class folders in a folder or an archive.

All sources give the same form: uint8 images of one size, and labels that index a list of class names.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.outputs.prepared_data import Labeled
from pipelines.preparation import torchvision_datasets
from pipelines.preparation.class_folders import contains_images, read_class_folders
from pipelines.preparation.images import to_pixels
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.runtime.errors import UserError
from pipelines.runtime.home import home
from pipelines.runtime.progress import track
from pipelines.settings.dataset_defaults import DATASET_DEFAULTS
from pipelines.settings.params import DataParams


def read_source(data: DataParams) -> RawDataset:
    """Read the data set ``data.dataset`` from ``data.source``, scaled and converted to ``data.size`` and
    ``data.channels``. A data set of torchvision's is downloaded if it is missing.

    Raises:
        UserError: ``data.source`` holds no usable data set.
        ExternalError: a file cannot be read, or the download failed.
    """
    if data.dataset == "digits" and data.source == "data/raw":
        return _read_digits(data)
    path = locate(data.source)
    near = get_close_matches(data.dataset, DATASET_DEFAULTS, n=1, cutoff=0.75)
    if near and data.dataset not in DATASET_DEFAULTS and path.is_dir() and not contains_images(path):
        raise UserError(
            f"data.dataset: {data.dataset!r} given; did you mean {near[0]}? For images of your own, data.source must "
            f"hold images, and {data.source!r} holds none"
        )
    if path.is_file() or data.dataset not in torchvision_datasets.NAMES:
        return read_class_folders(data, path)
    found = torchvision_datasets.read(data, path)
    if found is None and contains_images(path):
        return read_class_folders(data, path)
    if found is None:
        torchvision_datasets.download(data, path)
        found = torchvision_datasets.read(data, path)
    assert found is not None
    return found


def locate(source: str) -> Path:
    """The path of ``data.source``; a relative path that is missing or empty here is looked up in the home.

    A temporary work tree has an empty ``data/raw``, while the home's ``data/raw`` holds what was downloaded.

    Raises:
        UserError: the path exists in neither place.
    """
    try:
        here = Path(source)
        path = here if here.is_absolute() else home() / here
        if here.exists() and not is_empty(here):
            path = here
        exists = path.exists()
    except OSError as error:  # a name that is too long, a folder without permission
        raise UserError(f"data.source: {source!r} given; {error}") from None
    if not exists:
        raise UserError(f"data.source: {source!r} given; there is no such file or folder")
    return path


def is_empty(path: Path) -> bool:
    """Whether a path is a folder with only a README and hidden files, like ``data/raw`` in a fresh clone."""
    return path.is_dir() and all(child.name.startswith((".", "README")) for child in path.iterdir())


def _read_digits(data: DataParams) -> RawDataset:
    """scikit-learn's digits, whose pixels are 0 to 16."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = (Image.fromarray(np.uint8(array * 255 / 16)) for array in digits.images)
    images = track("digits", images, len(digits.images))
    pixels = torch.from_numpy(np.stack([to_pixels(image, data.size, data.channels) for image in images]))
    labels = torch.from_numpy(digits.target.astype(np.int64))
    classes = [str(name) for name in digits.target_names]
    return RawDataset(Labeled(pixels, labels), None, classes, "scikit-learn load_digits")
