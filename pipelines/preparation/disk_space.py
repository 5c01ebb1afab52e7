"""Checks before any image is decoded that the disk has room for the prepared data and for DVC's copy of them."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.preparation.listing import Split
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.home import home
from pipelines.settings.data_params import DataParams, PrepareParams
from stn.distortions import make_distortion

GIB = 2**30
MANY = 10  # with so many times the space that is needed, DVC's settings are not read: that takes half a second
LINKS = ("hardlink", "symlink")
REMEDY = "dvc config cache.type hardlink,symlink lets DVC link to its cache instead of copying"


class Needed(NamedTuple):
    """Bytes that a preparation needs: the pixels of all images as they are read, and the files of the splits."""

    pixels: int
    files: int


class Cache(NamedTuple):
    """DVC's cache: its folder, and whether files of the work tree are links to it."""

    folder: Path
    links: bool


def check_disk(data: DataParams, settings: PrepareParams, splits: Sequence[Split], folder: Path) -> None:
    """Check the disk of ``folder``, the prepared data, and that of DVC's cache.

    Args:
        splits: the source's own split of each image.

    Raises:
        ExternalError: one of them is too small. The message says what is needed and what is free.
    """
    needed, free = needed_for(data, settings, splits), free_at(folder)
    if MANY * (needed.pixels + 2 * needed.files) <= free:
        return
    cache = read_cache()
    copies = 0 if cache.links else needed.files
    problem = ""
    if same_disk(folder, cache.folder):
        # The pixels are deleted before DVC copies the files.
        most = needed.files + max(needed.pixels, copies)
        problem = _describe(folder, most, free)
    elif not (problem := _describe(folder, needed.files + needed.pixels, free)):
        problem = _describe(cache.folder, needed.files, free_at(cache.folder))
    if problem:
        remedy = f"; {REMEDY}" if copies and same_disk(folder, cache.folder) else ""
        raise ExternalError(
            f"data.source: {len(splits):,} images of {' × '.join(map(str, data.form.shape))} {problem}; free disk "
            f"space there, or lower data.size{remedy}"
        )


def needed_for(data: DataParams, settings: PrepareParams, splits: Sequence[Split]) -> Needed:
    """The bytes that are needed for images with these splits of the source, at most; with groups, about."""
    distortion = make_distortion(**data.distortion.model_dump())
    channels, *size = data.form.shape
    count = stored = len(splits)
    if not distortion.is_identity:  # the validation images are also stored undistorted
        stored += splits.count("validation") or math.ceil(count * settings.validation)
    return Needed(count * math.prod(data.form.shape), stored * channels * math.prod(distortion.framed(*size)))


def read_cache() -> Cache:
    """Read the settings of DVC's cache."""
    from dvc.config import Config, ConfigError

    folder = home() / ".dvc"
    try:
        settings = Config(dvc_dir=str(folder), validate=False).get("cache", {})
    except ConfigError:  # DVC itself reports it
        settings = {}
    types = settings.get("type") or ["reflink", "copy"]
    types = types.split(",") if isinstance(types, str) else types
    # Whether the file system has reflinks is not known. Without them DVC takes the next type.
    first = next((kind for kind in types if kind != "reflink"), "copy")
    return Cache(folder / Path(settings.get("dir") or "cache").expanduser(), first in LINKS)


def same_disk(folder: Path, other: Path) -> bool:
    """Whether two folders, which need not exist yet, lie on one file system."""
    return _existing(folder).stat().st_dev == _existing(other).stat().st_dev


def free_at(folder: Path) -> int:
    """The free bytes of the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _describe(folder: Path, needed: int, free: int) -> str:
    """What a disk lacks; empty if it has enough."""
    if needed <= free:
        return ""
    return f"need {needed / GIB:.1f} GiB on the disk of {_existing(folder)}, and {free / GIB:.1f} GiB are free"
