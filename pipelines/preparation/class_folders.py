"""Data sets in class folders, in a folder or an archive."""

import unicodedata
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from pipelines.preparation.archives import Tar, Zip
from pipelines.preparation.folders import Folder
from pipelines.preparation.groups import check_groups, find_groups
from pipelines.preparation.images import ENDINGS
from pipelines.preparation.layout import HIDDEN, Layout, find_layout, is_hidden
from pipelines.preparation.listing import (
    SPLITS,
    Listing,
    Record,
    check_classes,
    describe_files,
    in_split,
    name_first,
)
from pipelines.preparation.split_names import EXAMPLES
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.settings.data_params import DataParams


def list_class_folders(data: DataParams, path: Path, files: Folder | Zip | Tar) -> Listing:
    """List class folders. Images are sorted by split and name, also those of an archive.

    Args:
        path: where the source lies.
        files: all images in it.

    Raises:
        UserError: ``path`` holds no usable data set; the message says what is missing or which file is refused.
        ExternalError: a link to a class folder leads to nothing.
    """
    layout = find_layout(files.names, files.folders)
    classes = layout.classes
    _check_splits(data.source, layout)
    _check_links(data.source, files.broken_links, layout.depth)
    groups = find_groups(data.group, layout.places)
    records = [Record(name, place.label, place.split, groups.get(name)) for name, place in layout.places.items()]
    check_classes(data.source, records, classes)
    check_groups(data.group, records)
    _check_empty_folders(data.source, layout, records)
    # The name itself decides between names that differ in their Unicode form alone.
    records.sort(key=lambda r: (SPLITS.index(r.split), unicodedata.normalize("NFC", r.name), r.name))
    others = [name for name in files.others if not is_hidden(PurePosixPath(name).parts)]
    left_alone = describe_files(others, "no image format that is read")
    outside = f"images outside the class folders, such as {name_first(layout.strays)}"
    left_alone += describe_files(layout.strays, outside)
    return Listing(records, classes, f"{path.name} (class folders)", files, left_alone)


def _check_splits(source: str, layout: Layout) -> None:
    """Check that each split is one folder, and that no folder looks like a split without being called like one.

    Raises:
        UserError: two folders stand for one split, or folders with unknown names hold the same class folders.
    """
    for split, folders in layout.folders.items():
        if len(folders) > 1:
            raise UserError(
                f"data.source: {source!r} has the folders {' and '.join(folders)}, which both stand for the "
                f"split {split}; rename one of them, or join them"
            )
    if layout.shared:
        inside = sorted(next(iter(layout.shared.values())))
        raise UserError(
            f"data.source: {source!r} has the folders {name_first(sorted(layout.shared))}, which all hold the folders "
            f"{name_first(inside)}; if they are splits, rename them to {EXAMPLES}; if they are classes, put the images "
            f"directly into them, or name the classes in a table (data.table)"
        )


def _check_links(source: str, broken: dict[str, str], depth: int) -> None:
    """Check that no broken link is in the place of a class folder, or of a folder around it.

    Args:
        source: the setting ``data.source``.
        broken: targets of broken links, by the links' paths.
        depth: number of folders around each class folder.

    Raises:
        ExternalError: one is. Its class or split would be missing without a message.
    """
    for name, target in broken.items():
        path = PurePosixPath(name)
        hidden = any(part.startswith(HIDDEN) for part in path.parts)
        if len(path.parts) <= depth + 1 and not hidden and path.suffix.lower() not in ENDINGS:
            raise ExternalError(
                f"{source}: {name}: a link to {target}, which does not exist; repair it, or remove it if it is not the "
                f"folder of a class or a split"
            )


def _check_empty_folders(source: str, layout: Layout, records: Collection[Record]) -> None:
    """Check that each class folder holds images.

    Raises:
        UserError: one holds none.
    """
    if layout.empty:
        place = min(layout.empty)
        raise UserError(
            f"data.source: {source!r} has no image of class {place.label}{in_split(place.split, records)}: the folder "
            f"has no file with an ending such as .png or .jpg; remove the folder, or put images into it"
        )
