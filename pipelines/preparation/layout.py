"""The layout of class folders: the split and the class of each file, derived from its path."""

import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines.preparation.listing import Split
from pipelines.preparation.split_names import split_of

HIDDEN = (".", "__MACOSX")
MIN_SHARED = 2  # class folders with the same names in all top folders


class Place(NamedTuple):
    """The split and the class of an image."""

    split: Split
    label: str


class Layout(NamedTuple):
    """The layout of class folders.

    Args:
        places: place of each image file by its name.
        empty: places of class folders without images.
        depth: number of folders around each class folder.
        folders: folders that stand for each split.
        strays: image files that have no place.
        shared: folders whose class folders have the same names, although none is called like a split.
    """

    places: dict[str, Place]
    empty: set[Place]
    depth: int
    folders: dict[Split, list[str]]
    strays: list[str]
    shared: dict[str, set[str]]

    @property
    def classes(self) -> list[str]:
        """The names of all classes that have images, sorted."""
        return sorted({place.label for place in self.places.values()})


def find_layout(names: Collection[str], folders: Collection[str]) -> Layout:
    """Derive each image's split and class from the folders in its path.

    Folders that contain all files are ignored, also inside the folder of a split, and so are hidden files and folders.
    Without folders of splits all images belong to the split ``train``. Class names are normalized to Unicode's composed
    form (NFC).

    Args:
        names: paths of the image files, separated by ``/``.
        folders: paths of all folders.
    """
    parts = {name: path for name in names if (path := PurePosixPath(name).parts) and not is_hidden(path)}
    outer = _count_common(parts.values())
    tops = {path[outer] for path in parts.values() if len(path) - outer > 1}
    of_split: dict[Split, list[str]] = {}
    for top in sorted(tops):
        if split := split_of(top):
            of_split.setdefault(split, []).append(top)
    has_splits = bool(of_split) and (
        ("train" in of_split and len(of_split) > 1) or len(tops) == sum(map(len, of_split.values()))
    )
    inner = dict.fromkeys(tops, 0)  # number of common folders inside the folder of a split
    if has_splits:
        inner = {top: _count_common([p for p in parts.values() if p[outer] == top], outer + 1) for top in tops}

    def find_place(path: tuple[str, ...], is_folder: bool) -> Place | None:
        split = split_of(path[outer]) if has_splits else "train"
        depth = outer + has_splits + inner.get(path[outer], 0)  # the index of the class folder
        fits = len(path) == depth + 1 if is_folder else len(path) > depth + 1
        return Place(split, unicodedata.normalize("NFC", path[depth])) if split and fits else None

    places = {name: place for name, path in parts.items() if (place := find_place(path, is_folder=False))}
    outer_folders = {path[:outer] for path in parts.values()}
    class_folders = {
        place
        for folder in folders
        if (path := PurePosixPath(folder).parts)[:outer] in outer_folders and len(path) > outer
        if not is_hidden(path) and (place := find_place(path, is_folder=True))
    }
    return Layout(
        places,
        class_folders - set(places.values()),
        outer + has_splits,
        of_split if has_splits else {},
        [name for name in parts if name not in places],
        {} if has_splits else _find_shared(list(parts.values()), outer),
    )


def is_hidden(path: Collection[str]) -> bool:
    """Whether a part of a path is hidden, or is what macOS adds to archives."""
    return any(part.startswith(HIDDEN) for part in path)


def _count_common(paths: Collection[tuple[str, ...]], start: int = 0) -> int:
    """The number of folders from ``start`` on that contain all files, apart from those of classes and splits."""
    depth = start
    while paths:
        first = {path[depth] for path in paths if len(path) > depth}
        is_split = start == 0 and any(map(split_of, first))
        if len(first) > 1 or is_split or any(len(path) - depth < 3 for path in paths):
            break
        depth += 1
    return depth - start


def _find_shared(paths: Collection[tuple[str, ...]], outer: int) -> dict[str, set[str]]:
    """The top folders with the names of their folders, if these are the same in all of them; else nothing."""
    inside: dict[str, set[str]] = {}
    for path in paths:
        if len(path) - outer < 3:  # an image in a top folder: that is a class
            return {}
        inside.setdefault(path[outer], set()).add(path[outer + 1])
    same = len(inside) > 1 and len({frozenset(names) for names in inside.values()}) == 1
    return inside if same and len(next(iter(inside.values()))) >= MIN_SHARED else {}
