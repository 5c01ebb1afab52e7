"""Data sets that torchvision provides: read from a torchvision root, or downloaded into it."""

import http.client
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from pipelines.preparation.folders import Folder
from pipelines.preparation.groups import check_groups, find_groups
from pipelines.preparation.images import ENDINGS
from pipelines.preparation.listing import EXPECTED, SPLITS, Files, Listing, Record, Split, count_of
from pipelines.preparation.torchvision_sets import (
    TORCHVISION_SETS,
    checksums,
    class_names,
    open_sets,
    paths,
    targets,
)
from pipelines.runtime.errors import ExternalError, first_line
from pipelines.settings.data_params import DataParams

NAMES = tuple(TORCHVISION_SETS)
NO_CLASS = "N/A"  # the class 0 of EMNIST's letters, which begin with 1
TIMEOUT_S = 60.0  # a download fails after this time without a byte


def find(data: DataParams, root: Path) -> Listing | None:
    """List the data set ``data.dataset`` from a torchvision root; None if it is not there.

    Raises:
        UserError: ``data.group`` does not fit the names of the images.
        ExternalError: its files are damaged.
    """
    entry = TORCHVISION_SETS[data.dataset]
    try:
        found = open_sets(data.dataset, root, download=False)
        classes = class_names(found["train"])
        labels = {split: [classes[target] for target in targets(dataset)] for split, dataset in found.items()}
        files, names = _name_images(root, entry.folder, found, entry.transposed)
    except (AssertionError, RuntimeError, ValueError, LookupError, EOFError, OSError) as error:
        missing = isinstance(error, FileNotFoundError) and not (root / (entry.folder or "?")).exists()
        if missing or (isinstance(error, RuntimeError) and "not found" in str(error).lower()):
            return None
        # Most unpacked files have no checksums.
        raise ExternalError(
            f"data.source: {data.dataset} in {data.source!r} is truncated or damaged ({first_line(error)}); "
            f"delete its folder there, and it will be downloaded again"
        ) from None
    pattern = data.group or entry.group
    groups = find_groups(pattern, [name for split in found for name in names[split]])
    records = [
        Record(name, label, split, groups.get(name))
        for split in SPLITS
        if split in found
        for name, label in zip(names[split], labels[split], strict=True)
    ]
    check_groups(pattern, records)
    return Listing(records, [name for name in classes if name != NO_CLASS], f"torchvision {entry.kind}", files)


def _name_images(
    root: Path, folder: str | None, sets: Mapping[Split, Any], transposed: bool
) -> tuple[Files, dict[Split, list[str]]]:
    """The files of a data set, and the name of each image in them.

    Raises:
        FileNotFoundError: an image file is missing.
    """
    names: dict[Split, list[str]]
    if folder is None:
        names = {split: [f"{split}/{i}" for i in range(len(images))] for split, images in sets.items()}
        return _Images(sets, transposed), names
    files = Folder(root / folder, ENDINGS)
    names = {
        split: [path.relative_to(files.path).as_posix() for path in paths(images)] for split, images in sets.items()
    }
    missing = sorted({name for part in names.values() for name in part} - files.states.keys())
    if missing:
        raise FileNotFoundError(f"{count_of(len(missing), 'image file')} missing, such as {folder}/{missing[0]}")
    return files, names


class _Images:
    """The images of data sets that are in memory, named ``<split>/<index>``. They never change."""

    broken_links: Mapping[str, str] = MappingProxyType({})

    def __init__(self, sets: Mapping[Split, Any], transposed: bool):
        self.sets, self.transposed = sets, transposed

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Image.Image]]:
        """Yield the name of each wanted image, and the image."""
        for split, dataset in self.sets.items():
            for i in range(len(dataset)):
                if (name := f"{split}/{i}") in wanted:
                    image = dataset[i][0]
                    yield name, image.transpose(Image.Transpose.TRANSPOSE) if self.transposed else image

    def check_unchanged(self) -> None:
        """Nothing can change."""


def download(data: DataParams, root: Path) -> None:
    """Download the data set ``data.dataset`` into a torchvision root. torchvision verifies files by their MD5.

    Raises:
        ExternalError: the download failed. Damaged files are removed; complete files stay.
    """
    from torchvision.datasets.utils import check_integrity

    files = checksums(data.dataset, root)
    before = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        open_sets(data.dataset, root, download=True)
    except (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException) as error:
        reason = first_line(error)
        for path, md5 in files.items():
            is_new = path.exists() and path.stat().st_mtime_ns != before.get(path)
            if is_new and (md5 is None or not check_integrity(path, md5)):
                reason = f"{path.name} was incomplete or had a wrong checksum, and was removed"
                path.unlink()
        raise ExternalError(
            f"data.source: {data.dataset} is not in {data.source!r} and could not be downloaded ({reason}). "
            f"Without a network, use a local copy: make repro SOURCE=path, where path is a torchvision root, or a "
            f"folder, zip or tar of {EXPECTED}"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
