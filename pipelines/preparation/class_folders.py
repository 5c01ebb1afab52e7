"""Data sets in class folders, in a folder or an archive."""

import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import psutil
import torch

from pipelines.outputs.prepared_data import Labeled
from pipelines.preparation.archives import Tar, Zip, open_files
from pipelines.preparation.folders import Folder
from pipelines.preparation.images import ENDINGS, decode
from pipelines.preparation.layout import EXPECTED, HIDDEN, SPLITS, Layout, find_layout
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.progress import track
from pipelines.settings.params import DataParams


def contains_images(path: Path) -> bool:
    """Whether a folder contains any image file, at any depth."""
    return bool(Folder(path, ENDINGS).names)


def read_class_folders(data: DataParams, path: Path) -> RawDataset:
    """Read a folder or an archive of class folders. Images are sorted by split and name, also those of an archive.

    Raises:
        UserError: ``path`` holds no usable data set; the message says what is missing or which file is refused.
        ExternalError: a file is damaged and ``data.skip_broken`` is false, or a file changed while it was read.
    """
    files = open_files(path, ENDINGS)
    if files is None:
        raise UserError(
            f"data.source: {data.source!r} given; it is neither a folder nor a zip nor a tar "
            f"(uncompressed, or compressed by gzip, bzip2, xz or zstd)"
        )
    layout = find_layout(files.names, files.folders)
    classes = layout.classes
    _check_links(data.source, files.broken_links, layout.depth)
    _check_layout(data.source, layout, classes)

    places = layout.places
    names = sorted(places, key=lambda name: (SPLITS.index(places[name].split), unicodedata.normalize("NFC", name)))
    pixels, broken = _read_pixels(data, files, names)
    if broken:
        readable = {name: place for name, place in places.items() if name not in broken}
        _check_layout(data.source, Layout(readable, set()), classes)

    index = {label: i for i, label in enumerate(classes)}
    labels = np.array([index[places[name].label] for name in names])
    splits: dict[str, Labeled] = {}
    for split in SPLITS:
        rows = np.array([name not in broken and places[name].split == split for name in names])
        if rows.any():
            splits[split] = Labeled(torch.from_numpy(pixels[rows]), torch.from_numpy(labels[rows]))
    origin = f"{path.name} ({len(names) - len(broken)} images in class folders)"
    return RawDataset(splits["train"], splits.get("test"), classes, origin, broken)


def _check_links(source: str, broken: dict[str, str], depth: int) -> None:
    """Check that no broken link is in the place of a class folder, or of a folder around it.

    Args:
        source: the setting ``data.source``.
        broken: targets of broken links, by the links' paths.
        depth: number of folders around each class folder.

    Raises:
        ExternalError: one is. Without a word, its class or split would be missing.
    """
    for name, target in broken.items():
        path = PurePosixPath(name)
        hidden = any(part.startswith(HIDDEN) for part in path.parts)
        if len(path.parts) <= depth + 1 and not hidden and path.suffix.lower() not in ENDINGS:
            raise ExternalError(
                f"{source}: {name}: a link to {target}, which does not exist; repair it, or remove it if it is not the "
                f"folder of a class or a split"
            )


def _check_layout(source: str, layout: Layout, classes: list[str]) -> None:
    """Check that each split has images of each class.

    Raises:
        UserError: there are fewer than two classes, or a class has no images in a split or in its folder.
    """
    given = f"data.source: {source!r}"
    places = layout.places.values()
    if len(classes) < 2:
        raise UserError(
            f"{given} holds {len(places)} images in {len(classes)} classes; expected {EXPECTED} "
            f"with at least two classes"
        )
    if unprintable := [label for label in classes if not label.isprintable()]:
        raise UserError(f"{given} has a class folder with unprintable characters: {unprintable[0]!r}; rename it")
    present = {split: {place.label for place in places if place.split == split} for split in SPLITS}
    if not present["train"]:
        raise UserError(f"{given} has images in test/ alone; expected {EXPECTED}")
    for split, labels in present.items():
        missing = sorted(set(classes) - labels) if labels else []
        if missing:
            raise UserError(f"{given} has no image of class {', '.join(missing)}{_in_split(split, present['test'])}")
    if layout.empty:
        split, label = min(layout.empty)
        raise UserError(
            f"{given} has no image of class {label}{_in_split(split, present['test'])}: the folder has no file with an "
            f"ending such as .png or .jpg; remove the folder, or put images into it"
        )


def _in_split(split: str, test_classes: set[str]) -> str:
    """The words that name a split; empty for a data set without a test split."""
    return f" in {split}/" if test_classes else ""


def _read_pixels(data: DataParams, files: Folder | Zip | Tar, names: list[str]) -> tuple[np.ndarray, dict[str, str]]:
    """Read image files.

    Returns:
        Pixels uint8 (N, C, size, size) in the order of ``names``, and the reason for each unreadable file, whose row
        is undefined.

    Raises:
        UserError: the images need more memory than the machine has.
        ExternalError: as :func:`read_class_folders`.
    """
    pixels = _allocate(data, len(names))
    rows = {name: i for i, name in enumerate(names)}
    read: set[str] = set()
    broken: dict[str, str] = {}
    for name, content in track(data.dataset, files.read(rows), len(rows)):
        read.add(name)
        try:
            if target := files.broken_links.get(name):
                raise ValueError(f"a link to {target}, which does not exist")
            pixels[rows[name]] = decode(content, data.size, data.channels)
        except ValueError as error:
            if not data.skip_broken:
                files.check_unchanged()  # a file that is being written at the moment is not damaged
                raise ExternalError(
                    f"{data.source}: {name}: not a readable image ({error}); "
                    f"repair or remove it, or skip such files with data.skip_broken: true"
                ) from None
            broken[name] = str(error)
    files.check_unchanged()
    assert read == rows.keys()
    return pixels, broken


def _allocate(data: DataParams, count: int) -> np.ndarray:
    """An uninitialized array uint8 (count, C, size, size).

    Raises:
        UserError: it needs more memory than the machine has.
    """
    shape = (count, data.channels, data.size, data.size)
    needed, available = int(np.prod(shape)), psutil.virtual_memory().total
    if needed > available:
        raise UserError(
            f"data.size: {data.size} given; {count:,} images of it need {needed / 2**30:,.0f} GiB of memory, "
            f"this machine has {available / 2**30:,.0f}"
        )
    return np.empty(shape, dtype=np.uint8)
