"""Data sets that torchvision provides: read from a torchvision root, or downloaded into it."""

import http.client
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from pipelines.preparation.listing import EXPECTED, Listing, Record, Split
from pipelines.runtime.errors import ExternalError
from pipelines.settings.data_params import DataParams

OWN_SPLITS: tuple[Split, ...] = ("train", "test")
NAMES = ("cifar10", "mnist", "fashion_mnist", "svhn")
TIMEOUT_S = 60.0  # a download fails after this time without a byte


def find(data: DataParams, root: Path) -> Listing | None:
    """List the data set ``data.dataset`` from a torchvision root; None if it is not there.

    Raises:
        ExternalError: its files are damaged.
    """
    from torchvision import datasets

    try:
        found = _open(data.dataset, root, download=False)
    except (AssertionError, RuntimeError, ValueError, LookupError, EOFError, OSError) as error:
        if isinstance(error, RuntimeError) and "not found" in str(error).lower():
            return None
        # MNIST's unpacked files have no checksums.
        raise ExternalError(
            f"data.source: {data.dataset} in {data.source!r} is truncated or damaged ({_first_line(error)}); "
            f"delete its folder there, and it will be downloaded again"
        ) from None
    sets = dict(zip(OWN_SPLITS, found, strict=True))
    classes = [name.split(" - ")[0] for name in getattr(found[0], "classes", "0123456789")]
    records = [
        Record(f"{split}/{i}", classes[int(target)], split)
        for split, dataset in sets.items()
        for i, target in enumerate(dataset.labels if isinstance(dataset, datasets.SVHN) else dataset.targets)
    ]
    return Listing(records, classes, f"torchvision {type(found[0]).__name__}", _Images(sets))


class _Images:
    """The images of torchvision's data sets, named ``<split>/<index>``. They are in memory and never change."""

    broken_links: Mapping[str, str] = MappingProxyType({})

    def __init__(self, sets: Mapping[Split, Any]):
        self.sets = sets

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Image.Image]]:
        """Yield the name of each wanted image, and the image."""
        for split, dataset in self.sets.items():
            for i in range(len(dataset)):
                if (name := f"{split}/{i}") in wanted:
                    yield name, dataset[i][0]

    def check_unchanged(self) -> None:
        """Nothing can change."""


def download(data: DataParams, root: Path) -> None:
    """Download the data set ``data.dataset`` into a torchvision root. Each file is verified by its MD5.

    Raises:
        ExternalError: the download failed. Damaged files are removed; complete files stay.
    """
    from torchvision.datasets.utils import check_integrity

    files = _checksums(data.dataset, root)
    before = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        _open(data.dataset, root, download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = _first_line(error)
        for path, md5 in files.items():
            is_new = path.exists() and path.stat().st_mtime_ns != before.get(path)
            if is_new and not check_integrity(path, md5):
                reason = f"{path.name} was incomplete or had a wrong checksum, and was removed"
                path.unlink()
        raise ExternalError(
            f"data.source: {data.dataset} is not in {data.source!r} and could not be downloaded ({reason}). "
            f"Without a network, use a local copy: make repro SOURCE=path, where path is a torchvision root, or a "
            f"folder, zip or tar of {EXPECTED}"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _open(name: str, root: Path, download: bool) -> list[Any]:
    """torchvision's training and test data set."""
    from torchvision import datasets

    if name == "svhn":
        return [datasets.SVHN(root, split=split, download=download) for split in OWN_SPLITS]
    kind = {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    return [kind(root, train=split == "train", download=download) for split in OWN_SPLITS]


def _checksums(name: str, root: Path) -> dict[Path, str]:
    """The MD5 of each file that is downloaded."""
    from torchvision import datasets

    if name == "cifar10":
        return {root / datasets.CIFAR10.filename: datasets.CIFAR10.tgz_md5}
    if name == "svhn":
        return {root / datasets.SVHN.split_list[split][1]: datasets.SVHN.split_list[split][2] for split in OWN_SPLITS}
    kind = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    return {root / kind.__name__ / "raw" / file: md5 for file, md5 in kind.resources}


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
