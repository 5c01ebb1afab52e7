"""Decode the images of a source to uint8 pixels of one form."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from pipelines.preparation.images import decode, open_image
from pipelines.preparation.listing import Listing, check_classes
from pipelines.preparation.pixel_range import Extrema, PixelRange, find_range
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
    pixels = _allocate(data, len(records))
    pixel_range = None if data.pixel_range is None else PixelRange(*data.pixel_range)
    broken, deep = _fill(pixels, range(len(records)), data, listing, pixel_range)
    if deep:  # the range is known only after all images are read once
        pixel_range = find_range(deep.values())
        broken |= _fill(pixels, deep, data, listing, pixel_range).broken
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
        pixel_range,
        listing.left_alone,
    )


class _Rows(NamedTuple):
    """What became of rows: the reasons why some could not be read, and the extrema of others with more than 8 bits.

    The pixels of both are undefined.
    """

    broken: dict[int, str]
    deep: dict[int, Extrema]


def _fill(
    pixels: np.ndarray, rows: Collection[int], data: DataParams, listing: Listing, pixel_range: PixelRange | None
) -> _Rows:
    """Fill rows of ``pixels``, uint8 (N, C, H, W); each file is read once for all its records.

    Raises:
        ExternalError: as :func:`read_images`.
    """
    files = listing.files
    rows_of: dict[str, list[int]] = {}
    for row in rows:
        rows_of.setdefault(listing.records[row].name, []).append(row)
    read: set[str] = set()
    found = _Rows({}, {})
    for name, content in track(data.dataset, files.read(rows_of), len(rows_of)):
        read.add(name)
        for row, result in _decode_records(content, listing, rows_of[name], data, pixel_range):
            if isinstance(result, np.ndarray):
                pixels[row] = result
            elif isinstance(result, Extrema):
                found.deep[row] = result
            else:
                if not data.skip_broken:
                    files.check_unchanged()  # a file that is being written at the moment is not damaged
                    raise ExternalError(
                        f"{data.source}: {listing.records[row].title}: not a readable image ({result}); "
                        f"repair or remove it, or skip such files with data.skip_broken: true"
                    )
                found.broken[row] = result
    files.check_unchanged()
    assert read == rows_of.keys()
    return found


def _decode_records(
    content: bytes | Image.Image, listing: Listing, rows: list[int], data: DataParams, pixel_range: PixelRange | None
) -> Iterator[tuple[int, np.ndarray | Extrema | str]]:
    """Decode the image of a file for each of its records; yields the result, or the reason why there is none."""
    try:
        if target := listing.files.broken_links.get(listing.records[rows[0]].name):
            raise ValueError(f"a link to {target}, which does not exist")
        image = content if isinstance(content, Image.Image) else open_image(content)
    except ValueError as error:
        yield from ((row, str(error)) for row in rows)
        return
    for row in rows:
        try:
            yield row, decode(image, data.form, listing.records[row].box, pixel_range=pixel_range)
        except ValueError as error:
            yield row, str(error)


def _allocate(data: DataParams, count: int) -> np.ndarray:
    """An uninitialized array uint8 (count, C, H, W).

    Raises:
        UserError: it needs more memory than the machine has.
    """
    shape = (count, *data.form.shape)
    needed, available = int(np.prod(shape)), psutil.virtual_memory().total
    if needed > available:
        raise UserError(
            f"data.size: {data.size} given; {count:,} images of it need {needed / 2**30:,.0f} GiB of memory, "
            f"this machine has {available / 2**30:,.0f}"
        )
    return np.empty(shape, dtype=np.uint8)
