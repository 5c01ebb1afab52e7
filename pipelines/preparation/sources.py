"""Read a data set from its source: torchvision, scikit-learn's digits, or class folders in a folder or an archive.

All sources give the same form: uint8 images of one size, and labels that index a list of class names.
"""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from pipelines.preparation import torchvision_datasets
from pipelines.preparation.groups import check_groups
from pipelines.preparation.listing import Listing, Record
from pipelines.preparation.own_images import holds_images, list_own_images
from pipelines.runtime.errors import UserError
from pipelines.runtime.home import home
from pipelines.runtime.locks import hold_lock
from pipelines.settings.data_params import DataParams
from pipelines.settings.dataset_defaults import DATASET_DEFAULTS


def list_images(data: DataParams) -> Listing:
    """List the images of the data set ``data.dataset`` in ``data.source``.

    A data set of torchvision's is downloaded if it is missing.

    Raises:
        UserError: ``data.source`` holds no usable data set.
        ExternalError: a file cannot be read, or the download failed.
    """
    if data.dataset == "digits" and data.source == "data/raw":
        return _Digits().listing(data.group)
    path = locate(data.source)
    near = get_close_matches(data.dataset, DATASET_DEFAULTS, n=1, cutoff=0.75)
    if near and data.dataset not in DATASET_DEFAULTS and path.is_dir() and not holds_images(path):
        raise UserError(
            f"data.dataset: {data.dataset!r} given; did you mean {near[0]}? For images of your own, data.source must "
            f"hold images, and {data.source!r} holds none"
        )
    if path.is_file() or data.table.files or data.dataset not in torchvision_datasets.NAMES:
        return list_own_images(data, path)
    found = torchvision_datasets.find(data, path)
    if found is not None:
        return found
    if holds_images(path):
        return list_own_images(data, path)
    with hold_lock(f"download-{data.dataset}"):  # another experiment may have downloaded it in the meantime
        found = torchvision_datasets.find(data, path)
        if found is None:
            torchvision_datasets.download(data, path)
            found = torchvision_datasets.find(data, path)
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


class _Digits:
    """scikit-learn's digits, whose pixels are 0 to 16, named by their index."""

    broken_links: Mapping[str, str] = MappingProxyType({})

    def __init__(self):
        from sklearn.datasets import load_digits

        self.bunch: Any = load_digits()

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Image.Image]]:
        """Yield the name of each wanted image, and the image."""
        for i, array in enumerate(self.bunch.images):
            if str(i) in wanted:
                yield str(i), Image.fromarray(np.uint8(array * 255 / 16))

    def check_unchanged(self) -> None:
        """Nothing can change."""

    def listing(self, group: str | None) -> Listing:
        """All images; the data set has no splits."""
        classes = [str(name) for name in self.bunch.target_names]
        records = [Record(str(i), classes[target]) for i, target in enumerate(self.bunch.target)]
        check_groups(group, records)
        return Listing(records, classes, "scikit-learn load_digits", self)
