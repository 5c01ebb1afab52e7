"""Decode the images of a source to uint8 pixels of one size."""

from collections.abc import Iterator

import numpy as np
import psutil
import torch
from PIL import Image

from pipelines.preparation.images import decode, open_image
from pipelines.preparation.listing import Listing, check_classes
from pipelines.preparation.raw_dataset import RawDataset, number_groups
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.progress import track
from pipelines.settings.data_params import DataParams


def read_images(data: DataParams, listing: Listing) -> RawDataset:
    """Read and decode the images of a source. Files that are skipped leave no row.

    Raises:
        UserError: the images need more memory than the machine has.
        ExternalError: a file is damaged and ``data.skip_broken`` is false, or a file changed while it was read.
    """
    records = listing.records
    pixels, broken = _read_pixels(data, listing)
    index = {label: i for i, label in enumerate(listing.classes)}
    kept = [i for i in range(len(records)) if i not in broken]
    if broken:
        check_classes(data.source, [records[i] for i in kept], listing.classes)
        pixels = pixels[kept]
    return RawDataset(
        torch.from_numpy(pixels),
        torch.tensor([index[records[i].label] for i in kept]),
        np.array([records[i].split for i in kept]),
        listing.classes,
        listing.origin,
        {records[i].title: reason for i, reason in broken.items()},
        number_groups([records[i].group for i in kept]),
    )


def _read_pixels(data: DataParams, listing: Listing) -> tuple[np.ndarray, dict[int, str]]:
    """Read each image file once, and fill the rows of all its records.

    Returns:
        Pixels uint8 (N, C, size, size) in the order of the records, and the reason for each row that could not be read
        and is undefined.

    Raises:
        UserError, ExternalError: as :func:`read_images`.
    """
    files = listing.files
    pixels = _allocate(data, len(listing.records))
    rows: dict[str, list[int]] = {}
    for i, record in enumerate(listing.records):
        rows.setdefault(record.name, []).append(i)
    read: set[str] = set()
    broken: dict[int, str] = {}
    for name, content in track(data.dataset, files.read(rows), len(rows)):
        read.add(name)
        for row, result in _decode_records(name, content, listing, rows[name], data):
            if isinstance(result, np.ndarray):
                pixels[row] = result
                continue
            if not data.skip_broken:
                files.check_unchanged()  # a file that is being written at the moment is not damaged
                raise ExternalError(
                    f"{data.source}: {listing.records[row].title}: not a readable image ({result}); "
                    f"repair or remove it, or skip such files with data.skip_broken: true"
                ) from None
            broken[row] = result
    files.check_unchanged()
    assert read == rows.keys()
    return pixels, broken


def _decode_records(
    name: str, content: bytes | Image.Image, listing: Listing, rows: list[int], data: DataParams
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Decode the image of a file for each of its records; yields its pixels, or the reason why it has none."""
    try:
        if target := listing.files.broken_links.get(name):
            raise ValueError(f"a link to {target}, which does not exist")
        image = content if isinstance(content, Image.Image) else open_image(content)
    except ValueError as error:
        yield from ((row, str(error)) for row in rows)
        return
    for row in rows:
        try:
            yield row, decode(image, data.size, data.channels, listing.records[row].box)
        except ValueError as error:
            yield row, str(error)


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
