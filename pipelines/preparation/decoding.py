"""Decode the images of a source to uint8 pixels of one size."""

import numpy as np
import psutil
import torch
from PIL import Image

from pipelines.preparation.images import decode, to_pixels
from pipelines.preparation.listing import Listing, check_classes
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.progress import track
from pipelines.settings.data_params import DataParams


def read_images(data: DataParams, listing: Listing) -> RawDataset:
    """Read and decode the images of a source. Files that are skipped leave no row.

    Raises:
        UserError: the images need more memory than the machine has.
        ExternalError: a file is damaged and ``data.skip_broken`` is false, or a file changed while it was read.
    """
    names = [record.name for record in listing.records]
    pixels, broken = _read_pixels(data, listing, names)
    index = {label: i for i, label in enumerate(listing.classes)}
    labels = np.array([index[record.label] for record in listing.records])
    splits = np.array([record.split for record in listing.records])
    if broken:
        check_classes(data.source, [r for r in listing.records if r.name not in broken], listing.classes)
        kept = np.array([name not in broken for name in names])
        pixels, labels, splits = pixels[kept], labels[kept], splits[kept]
    return RawDataset(
        torch.from_numpy(pixels), torch.from_numpy(labels), splits, listing.classes, listing.origin, broken
    )


def _read_pixels(data: DataParams, listing: Listing, names: list[str]) -> tuple[np.ndarray, dict[str, str]]:
    """Read image files.

    Returns:
        Pixels uint8 (N, C, size, size) in the order of ``names``, and the reason for each unreadable file, whose row
        is undefined.

    Raises:
        UserError, ExternalError: as :func:`read_images`.
    """
    files = listing.files
    pixels = _allocate(data, len(names))
    rows = {name: i for i, name in enumerate(names)}
    read: set[str] = set()
    broken: dict[str, str] = {}
    for name, content in track(data.dataset, files.read(rows), len(rows)):
        read.add(name)
        try:
            if target := files.broken_links.get(name):
                raise ValueError(f"a link to {target}, which does not exist")
            if isinstance(content, Image.Image):
                pixels[rows[name]] = to_pixels(content, data.size, data.channels)
            else:
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
