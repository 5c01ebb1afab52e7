"""Data sets in class folders, in a folder or an archive."""

import unicodedata
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from pipelines.preparation.archives import open_files
from pipelines.preparation.folders import Folder
from pipelines.preparation.images import ENDINGS
from pipelines.preparation.layout import HIDDEN, Layout, find_layout
from pipelines.preparation.listing import SPLITS, Listing, Record, check_classes, in_split
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.settings.data_params import DataParams


def contains_images(path: Path) -> bool:
    """Whether a folder contains any image file, at any depth."""
    return bool(Folder(path, ENDINGS).names)


def list_class_folders(data: DataParams, path: Path) -> Listing:
    """List a folder or an archive of class folders. Images are sorted by split and name, also those of an archive.

    Raises:
        UserError: ``path`` holds no usable data set; the message says what is missing or which file is refused.
        ExternalError: an archive is damaged, or a folder cannot be read.
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
    records = [Record(name, place.label, place.split) for name, place in layout.places.items()]
    check_classes(data.source, records, classes)
    _check_empty_folders(data.source, layout, records)
    records.sort(key=lambda record: (SPLITS.index(record.split), unicodedata.normalize("NFC", record.name)))
    return Listing(records, classes, f"{path.name} (class folders)", files)


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
