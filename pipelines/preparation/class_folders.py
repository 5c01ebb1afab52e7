"""Images in class folders, in a folder, zip or tar: whose split and class each one is, and all of them as tensors."""

import unicodedata
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import psutil
import torch

from pipelines.outputs.prepared_data import Labeled
from pipelines.preparation.archives import Folder, Tar, Zip, open_files
from pipelines.preparation.dataset import Source
from pipelines.preparation.images import ENDINGS, decode
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.progress import track
from pipelines.settings.params import DataParams

SPLITS = ("train", "test")
LAYOUT = "train/<class>/<image> and test/<class>/<image>, or <class>/<image>"
# What else may stand beside train/ or test/ without being a class: it is left alone, validation is split off here.
OTHER_SPLITS = ("val", "valid", "validation")
HIDDEN = (".", "__MACOSX")


def holds_images(path: Path) -> bool:
    """Whether any image file lies in the folder or below it."""
    return bool(Folder(path, ENDINGS).names)


def read_class_folders(data: DataParams, path: Path) -> Source:
    """Read a folder or archive of class folders; the order is that of the files' names, whatever the archive's is.

    Raises:
        UserError: nothing usable lies at ``path``; the message says what is missing, or which file is refused.
        ExternalError: a file is damaged, unless ``data.skip_broken`` leaves it out, or changed while it was read.
    """
    files = open_files(path, ENDINGS)
    if files is None:
        raise UserError(
            f"data.source: {data.source!r} given; it is neither a folder nor a zip nor a tar "
            f"(plain, or packed by gzip, bzip2, xz or zstd)"
        )
    places, empty = _places(files.names, files.folders)
    classes = sorted({label for _, label in places.values()})
    _check_classes(data, places, empty, classes)

    names = sorted(places, key=lambda name: (SPLITS.index(places[name][0]), unicodedata.normalize("NFC", name)))
    pixels, broken = _read_pixels(data, files, names)
    if broken:
        _check_classes(data, {n: place for n, place in places.items() if n not in broken}, set(), classes)
    index = {label: i for i, label in enumerate(classes)}
    kept = np.array([name not in broken for name in names])
    of_split = np.array([places[name][0] for name in names])
    labels = np.array([index[places[name][1]] for name in names])
    splits: list[Labeled | None] = []
    for split in SPLITS:
        rows = kept & (of_split == split)
        splits.append(Labeled(torch.from_numpy(pixels[rows]), torch.from_numpy(labels[rows])) if rows.any() else None)
    train, test = splits
    assert train is not None
    origin = f"{path.name} ({len(names) - len(broken)} images in class folders)"
    return Source(train, test, classes, origin, broken)


def _check_classes(
    data: DataParams, places: dict[str, tuple[str, str]], empty: set[tuple[str, str]], classes: list[str]
) -> None:
    """Raises UserError: fewer than two classes, or one without images where the others have some."""
    given = f"data.source: {data.source!r}"
    if len(classes) < 2:
        raise UserError(
            f"{given} holds {len(places)} images in {len(classes)} classes; expected {LAYOUT} with at least two classes"
        )
    if not all(label.isprintable() for label in classes):
        odd = next(label for label in classes if not label.isprintable())
        raise UserError(f"{given} has a class folder whose name is no text: {odd!r}; rename it")
    present = {split: {label for place, label in places.values() if place == split} for split in SPLITS}
    if not present["train"]:
        raise UserError(f"{given} has images in test/ alone; expected {LAYOUT}")
    for split, labels in present.items():
        missing = sorted(set(classes) - labels) if labels else []
        if missing:
            where = f" in {split}/" if present["test"] else ""
            raise UserError(f"{given} has no image of class {', '.join(missing)}{where}")
    if empty:
        split, label = min(empty)
        where = f" in {split}/" if present["test"] else ""
        raise UserError(
            f"{given} has no image of class {label}{where}: the folder holds none with an ending such as .png or .jpg; "
            f"remove it, or put images there"
        )


def _read_pixels(data: DataParams, files: Folder | Zip | Tar, names: list[str]) -> tuple[np.ndarray, dict[str, str]]:
    """uint8 (N, C, size, size) of these files in this order, and why those that are broken are: their rows are void."""
    shape = (len(names), data.channels, data.size, data.size)
    needed, there = int(np.prod(shape)), psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"data.size: {data.size} given; {len(names):,} images of it need {needed / 2**30:,.0f} GiB of memory, "
            f"this machine has {there / 2**30:,.0f}"
        )
    pixels, rows = np.empty(shape, dtype=np.uint8), {name: i for i, name in enumerate(names)}
    read, broken = set(), {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of what is odd in a file but does no harm
        for name, content in track(data.dataset, files.read(rows), len(rows)):
            read.add(name)
            try:
                pixels[rows[name]] = decode(content, data.size, data.channels)
            except ValueError as error:
                if not data.skip_broken:
                    files.check_unchanged()  # half written just now is no damage
                    raise ExternalError(
                        f"{data.source}: {name}: not a readable image ({error}); "
                        f"mend or remove it, or leave such files out by data.skip_broken: true"
                    ) from None
                broken[name] = str(error)
    files.check_unchanged()
    assert read == rows.keys()
    return pixels, broken


def _places(names: list[str], folders: set[str]) -> tuple[dict[str, tuple[str, str]], set[tuple[str, str]]]:
    """Each file's split and class, by its folders, and the split and class of folders that hold no image.

    Folders around all of them are ignored, hidden files and folders are too.
    """
    parts = {name: PurePosixPath(name).parts for name in names}
    parts = {name: p for name, p in parts.items() if not any(part.startswith(HIDDEN) for part in p)}
    around = 0
    while parts:
        first = {path[around] for path in parts.values()}
        if len(first) > 1 or _split_of(*first) or any(len(path) - around < 3 for path in parts.values()):
            break
        around += 1
    tops = {path[around] for path in parts.values() if len(path) - around > 1}
    in_splits = any(map(_split_of, tops)) and (
        {_split_of(top) for top in tops} >= set(SPLITS)
        or all(_split_of(top) or top.lower() in OTHER_SPLITS for top in tops)
    )
    deep = around + in_splits  # where the class stands

    def place(path: tuple[str, ...]) -> tuple[str, str] | None:
        split = _split_of(path[around]) if in_splits else "train"
        return (split, unicodedata.normalize("NFC", path[deep])) if split and len(path) > deep else None

    places = {name: found for name, path in parts.items() if len(path) > deep + 1 and (found := place(path))}
    outer = {path[:around] for path in parts.values()}
    empty = {
        found
        for folder in folders
        if (path := PurePosixPath(folder).parts)[:around] in outer and len(path) == deep + 1
        if not path[-1].startswith(HIDDEN) and (found := place(path))
    }
    return places, empty - set(places.values())


def _split_of(folder: str) -> str | None:
    """The split that a folder's name stands for, upper case or lower."""
    return folder.lower() if folder.lower() in SPLITS else None
