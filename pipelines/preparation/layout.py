"""The layout of class folders: the split and the class of each file, derived from its path."""

import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines.preparation.listing import Split

FOLDERS: tuple[Split, ...] = ("train", "test")  # names of the folders around the class folders
# Folders beside train/ or test/ that are not classes. They are ignored: prepare splits off its own validation images.
OTHER_SPLITS = ("val", "valid", "validation")
HIDDEN = (".", "__MACOSX")


class Place(NamedTuple):
    """The split, ``train`` or ``test``, and the class of an image."""

    split: Split
    label: str


class Layout(NamedTuple):
    """The layout of class folders.

    Args:
        places: place of each image file by its name.
        empty: places of class folders without images.
        depth: number of folders around each class folder.
    """

    places: dict[str, Place]
    empty: set[Place]
    depth: int = 0

    @property
    def classes(self) -> list[str]:
        """The names of all classes that have images, sorted."""
        return sorted({place.label for place in self.places.values()})


def find_layout(names: Collection[str], folders: Collection[str]) -> Layout:
    """Derive each image's split and class from the folders in its path.

    Folders that contain all files are ignored, and so are hidden files and folders. Without ``train`` and ``test``
    folders all images belong to the split ``train``. Class names are normalized to Unicode's composed form (NFC).

    Args:
        names: paths of the image files, separated by ``/``.
        folders: paths of all folders.
    """
    parts = {name: PurePosixPath(name).parts for name in names}
    parts = {name: p for name, p in parts.items() if not any(part.startswith(HIDDEN) for part in p)}
    outer = 0  # the number of folders that contain all files
    while parts:
        first = {path[outer] for path in parts.values()}
        if len(first) > 1 or _split_of(*first) or any(len(path) - outer < 3 for path in parts.values()):
            break
        outer += 1
    tops = {path[outer] for path in parts.values() if len(path) - outer > 1}
    has_splits = any(map(_split_of, tops)) and (
        {_split_of(top) for top in tops} >= set(FOLDERS)
        or all(_split_of(top) or top.lower() in OTHER_SPLITS for top in tops)
    )
    depth = outer + has_splits  # the index of the class folder in a path

    def find_place(path: tuple[str, ...]) -> Place | None:
        split = _split_of(path[outer]) if has_splits else "train"
        return Place(split, unicodedata.normalize("NFC", path[depth])) if split and len(path) > depth else None

    places = {name: place for name, path in parts.items() if len(path) > depth + 1 and (place := find_place(path))}
    outer_folders = {path[:outer] for path in parts.values()}
    class_folders = {
        place
        for folder in folders
        if (path := PurePosixPath(folder).parts)[:outer] in outer_folders and len(path) == depth + 1
        if not path[-1].startswith(HIDDEN) and (place := find_place(path))
    }
    return Layout(places, class_folders - set(places.values()), depth)


def _split_of(folder: str) -> Split | None:
    """The split that a folder's name stands for, in upper or lower case, or None."""
    return next((split for split in FOLDERS if split == folder.lower()), None)
