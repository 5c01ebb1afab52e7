"""Where images come from: torchvision's data sets, scikit-learn's digits, class folders, archives of them.

Each is read into the same form: uint8 tensors of one size, with labels that index a list of class names.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.outputs.prepared_data import Labeled
from pipelines.preparation import torchvision_datasets as torchvision_sets
from pipelines.preparation.class_folders import holds_images, read_class_folders
from pipelines.preparation.dataset import Source
from pipelines.preparation.images import to_pixels
from pipelines.runtime.errors import UserError
from pipelines.runtime.home import home
from pipelines.runtime.progress import track
from pipelines.settings.params import DataParams


def read_source(data: DataParams) -> Source:
    """Read the data set that ``data`` names, resized and converted as it says.

    Raises:
        UserError: nothing usable lies at ``data.source``.
        ExternalError: a file cannot be read, or a download failed.
    """
    if data.dataset == "digits" and data.source == "data/raw":
        return _read_digits(data)
    path = locate(data.source)
    if path.is_file() or data.dataset not in torchvision_sets.NAMES:
        return read_class_folders(data, path)
    found = torchvision_sets.read_torchvision(data, path)
    if found is None and holds_images(path):
        return read_class_folders(data, path)
    if found is None:
        torchvision_sets.download(data, path)
        found = torchvision_sets.read_torchvision(data, path)
    assert found is not None
    return found


def locate(source: str) -> Path:
    """The path of ``data.source``: as given, or, where only the state's home has it, there.

    A temporary work tree has an empty ``data/raw`` of its own; what was downloaded lies in the home's.

    Raises:
        UserError: there is no such path.
    """
    try:
        here = Path(source).expanduser()
        path = here if here.is_absolute() else home() / here
        if here.exists() and not is_empty(here):
            path = here
        there = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be read, ~ of nobody
        raise UserError(f"data.source: {source!r} given; {error}") from None
    if not there:
        raise UserError(f"data.source: {source!r} given; there is no such file or folder")
    return path


def is_empty(path: Path) -> bool:
    """Whether it is a folder of nothing but a README and hidden files, as ``data/raw`` is in git."""
    return path.is_dir() and all(child.name.startswith((".", "README")) for child in path.iterdir())


def _read_digits(data: DataParams) -> Source:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = (Image.fromarray(np.uint8(array * 255 / 16)) for array in digits.images)
    images = track("digits", images, len(digits.images))
    pixels = torch.from_numpy(np.stack([to_pixels(image, data.size, data.channels) for image in images]))
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return Source(Labeled(pixels, labels), None, [str(d) for d in digits.target_names], "scikit-learn load_digits")
