"""Read the images of a source: uint8 pixels of one form in a memory-mapped file."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipelines.preparation.decoder import Content, Decoder, Piece, Written, close_files
from pipelines.preparation.decoder_pool import decode_all
from pipelines.preparation.folders import Folder
from pipelines.preparation.listing import Listing, check_classes
from pipelines.preparation.pixel_range import Extrema, PixelRange, find_range
from pipelines.preparation.raw_dataset import RawDataset, number_groups
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.progress import track
from pipelines.settings.data_params import DataParams

CHUNK = 1000  # images that are moved at once


def read_images(data: DataParams, listing: Listing, folder: Path) -> RawDataset:
    """Read and decode the images of a source. Files that are skipped leave no row.

    Args:
        folder: where the file of pixels is created. It may be deleted while the pixels are in use.

    Raises:
        ExternalError: a file is damaged and ``data.skip_broken`` is false, or a file changed while it was read.
        OSError: the pixels cannot be written.
    """
    records = listing.records
    path, shape = folder / "pixels", (len(records), *data.form.shape)
    with path.open("wb") as file:
        file.truncate(int(np.prod(shape)))
    hashes = np.zeros(len(records), np.uint64)
    pixel_range = None if data.pixel_range is None else PixelRange(*data.pixel_range)
    broken, deep, fitted = _fill(Decoder(path, data.form, pixel_range), range(len(records)), data, listing, hashes)
    if deep:  # the range is known only after all images are read once
        pixel_range = find_range(deep.values())
        scaled = _fill(Decoder(path, data.form, pixel_range), deep, data, listing, hashes)
        broken, fitted = broken | scaled.broken, fitted | scaled.fitted
    pixels = np.memmap(path, np.uint8, "r+", shape=shape)
    index = {label: i for i, label in enumerate(listing.classes)}
    kept = [i for i in range(len(records)) if i not in broken]
    if broken:
        check_classes(data.source, [records[i] for i in kept], listing.classes)
        pixels = _move_together(pixels, np.array(kept))
    return RawDataset(
        torch.from_numpy(pixels),
        torch.tensor([index[records[i].label] for i in kept]),
        np.array([records[i].split for i in kept]),
        listing.classes,
        listing.origin,
        hashes[kept],
        {records[i].title: reason for i, reason in broken.items()},
        number_groups([records[i].group for i in kept]),
        pixel_range,
        listing.left_alone,
        len(fitted),
    )


class _Rows(NamedTuple):
    """What became of rows: the reasons why some could not be read, the extrema of others with more than 8 bits, and the
    rows of images that have another aspect ratio than the form.

    The pixels of the first two are undefined.
    """

    broken: dict[int, str]
    deep: dict[int, Extrema]
    fitted: set[int]


def _fill(
    decoder: Decoder, rows: Collection[int], data: DataParams, listing: Listing, hashes: np.ndarray
) -> _Rows:  # fmt: skip
    """Fill rows of the file of pixels and of ``hashes`` (N,); each file is read once for all its records.

    Raises:
        ExternalError, OSError: as :func:`read_images`.
    """
    files = listing.files
    pieces_of: dict[str, list[Piece]] = {}
    for row in rows:
        pieces_of.setdefault(listing.records[row].name, []).append(Piece(row, listing.records[row].box))
    found = _Rows({}, {}, set())

    def refuse(row: int, reason: str) -> None:
        if not data.skip_broken:
            files.check_unchanged()  # a file that is being written at the moment is not damaged
            raise ExternalError(
                f"{data.source}: {listing.records[row].title}: not a readable image ({reason}); "
                f"repair or remove it, or skip such files with data.skip_broken: true"
            )
        found.broken[row] = reason

    def contents() -> Iterator[tuple[Content, list[Piece]]]:
        given = files.files(pieces_of) if isinstance(files, Folder) else files.read(pieces_of)
        for name, content in track(data.dataset, given, len(pieces_of)):
            if target := files.broken_links.get(name):
                for piece in pieces_of[name]:
                    refuse(piece.row, f"a link to {target}, which does not exist")
            else:
                yield content, pieces_of[name]

    try:
        for pieces, outcomes in decode_all(decoder, contents(), len(pieces_of)):
            for piece, outcome in zip(pieces, outcomes, strict=True):
                if isinstance(outcome, Written):
                    hashes[piece.row] = outcome.hash
                    if outcome.fitted:
                        found.fitted.add(piece.row)
                elif isinstance(outcome, Extrema):
                    found.deep[piece.row] = outcome
                else:
                    refuse(piece.row, outcome)
    finally:
        close_files()
    files.check_unchanged()
    return found


def _move_together(pixels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Move the kept rows to the front, within the file; returns them."""
    for start in range(0, len(kept), CHUNK):
        rows = kept[start : start + CHUNK]  # they lie at or behind the place where they go
        if rows[-1] >= start + len(rows):
            pixels[start : start + len(rows)] = pixels[rows]
    return pixels[: len(kept)]
