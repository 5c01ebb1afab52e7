"""Where images come from: torchvision's data sets, scikit-learn's digits, class folders, archives of them.

Each is read into the same form: uint8 tensors of one size, with labels that index a list of class names.
"""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pipelines.errors import UserError, WorldError
from pipelines.params import DataParams
from pipelines.prepared import Labeled
from pipelines.progress import track
from pipelines.state import home

SPLITS = ("train", "test")
LAYOUT = "train/<class>/<image> and test/<class>/<image>, or <class>/<image>"


class Source(NamedTuple):
    """What a source holds; ``test`` is None where it has no test images of its own."""

    train: Labeled
    test: Labeled | None
    classes: list[str]
    origin: str


def read_source(data: DataParams) -> Source:
    """Read the data set that ``data`` names, resized and converted as it says.

    Raises:
        UserError: nothing usable lies at ``data.source``.
        WorldError: a file cannot be read, or a download failed.
    """
    if data.dataset == "digits" and data.source == "data/raw":
        return _read_digits(data)
    path = locate(data.source)
    if path.is_file():
        return _read_class_folders(data, path)
    if data.dataset in ("cifar10", "mnist"):
        found = _read_torchvision(data, path, download=False)
        if found is None and next(_folder_entries(path), None) is not None:
            return _read_class_folders(data, path)
        return found or _download(data, path)
    return _read_class_folders(data, path)


def locate(source: str) -> Path:
    """The path of ``data.source``: as given, or, where only the state's home has it, there.

    A temporary work tree has an empty ``data/raw`` of its own; what was downloaded lies in the home's.

    Raises:
        UserError: there is no such path.
    """
    here = Path(source).expanduser()
    path = here if here.is_absolute() else home() / here
    if here.exists() and (here.is_file() or any(child.is_dir() for child in here.iterdir())):
        path = here
    if not path.exists():
        raise UserError(f"data.source: {source!r} given; there is no such file or folder")
    return path


def _read_digits(data: DataParams) -> Source:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = (Image.fromarray(np.uint8(array * 255 / 16)) for array in digits.images)
    pixels = _stack(track("digits", images, len(digits.images)), data)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return Source(Labeled(pixels, labels), None, [str(d) for d in digits.target_names], "scikit-learn load_digits")


def _read_torchvision(data: DataParams, root: Path, download: bool) -> Source | None:
    """The data set under a torchvision root; None where it is not there."""
    from torchvision.datasets import CIFAR10, MNIST

    kind = {"cifar10": CIFAR10, "mnist": MNIST}[data.dataset]
    splits = []
    for train in (True, False):
        try:
            dataset = kind(root, train=train, download=download)
        except RuntimeError as error:
            if download or "not found" not in str(error).lower():
                raise
            return None
        split = "train" if train else "test"
        arrays = (Image.fromarray(np.asarray(array)) for array in dataset.data)
        pixels = _stack(track(f"{data.dataset} {split}", arrays, len(dataset)), data)
        splits.append(Labeled(pixels, torch.as_tensor(dataset.targets, dtype=torch.int64)))
    classes = [name.split(" - ")[0] for name in dataset.classes]
    return Source(splits[0], splits[1], classes, f"torchvision {kind.__name__}")


def _download(data: DataParams, root: Path) -> Source:
    try:
        source = _read_torchvision(data, root, download=True)
    except (OSError, RuntimeError) as error:
        raise WorldError(
            f"data.source: {data.dataset} is not in {data.source!r} and could not be downloaded ({_reason(error)}). "
            f"Without a network, use a local copy: make repro SOURCE=path, where path is a torchvision root, or a "
            f"folder, zip or tar of {LAYOUT}"
        ) from None
    assert source is not None
    return source


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _read_class_folders(data: DataParams, path: Path) -> Source:
    endings = Image.registered_extensions()
    if path.is_dir():
        names, entries = [name for name, _ in _folder_entries(path)], _folder_entries(path)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in endings]
        entries = _zip_entries(path, names)
    elif tarfile.is_tarfile(path):
        try:
            with tarfile.open(path) as archive:
                names = [m.name for m in archive if m.isfile() and PurePosixPath(m.name).suffix.lower() in endings]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise WorldError(f"{path}: cannot be read to its end: {error}") from None
        entries = _tar_entries(path, set(names))
    else:
        raise UserError(f"data.source: {data.source!r} given; it is neither a folder nor a zip nor a tar")

    places = _places(names)
    classes = sorted({label for _, label in places.values()})
    if len(classes) < 2:
        raise UserError(
            f"data.source: {data.source!r} holds {len(places)} images in {len(classes)} classes; "
            f"expected {LAYOUT} with at least two classes"
        )
    index = {label: i for i, label in enumerate(classes)}

    decoded = {
        name: _decode(name, content, data)
        for name, content in track(data.dataset, entries, len(names))
        if name in places
    }
    pixels: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    for name in sorted(decoded):  # an archive has its own order, which must not change the split
        split, label = places[name]
        pixels[split].append(decoded[name])
        labels[split].append(index[label])
    for split, present in labels.items():
        missing = set(range(len(classes))) - set(present)
        if present and missing:
            names = ", ".join(classes[i] for i in sorted(missing))
            raise UserError(f"data.source: {data.source!r} has no image of class {names} in {split}/")
    if not labels["train"]:
        raise UserError(f"data.source: {data.source!r} has images in test/ alone; expected {LAYOUT}")
    train, test = (
        Labeled(torch.from_numpy(np.stack(pixels[split])), torch.tensor(labels[split])) if labels[split] else None
        for split in SPLITS
    )
    assert train is not None
    return Source(train, test, classes, f"{path.name} ({len(places)} images in class folders)")


def _folder_entries(path: Path) -> Iterator[tuple[str, Path]]:
    endings = Image.registered_extensions()
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in endings and file.is_file():
            yield file.relative_to(path).as_posix(), file


def _zip_entries(path: Path, names: list[str]) -> Iterator[tuple[str, io.BytesIO]]:
    with zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                yield name, io.BytesIO(archive.read(name))
            except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
                raise WorldError(f"{path}: {name}: cannot be read: {error}") from None


def _tar_entries(path: Path, names: set[str]) -> Iterator[tuple[str, io.BytesIO]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name in names and (file := archive.extractfile(member)) is not None:
                yield member.name, io.BytesIO(file.read())


def _places(names: list[str]) -> dict[str, tuple[str, str]]:
    """Each file's split and class, by its folders. Folders around all of them are ignored, hidden files are too."""
    parts = {name: PurePosixPath(name).parts for name in names}
    hidden = (".", "__MACOSX")
    parts = {name: p for name, p in parts.items() if not any(part.startswith(hidden) for part in p)}
    while parts:
        first = {folders[0] for folders in parts.values()}
        if len(first) > 1 or first & set(SPLITS) or any(len(folders) < 3 for folders in parts.values()):
            break
        parts = {name: folders[1:] for name, folders in parts.items()}
    tops = {folders[0] for folders in parts.values() if len(folders) > 1}
    if tops >= set(SPLITS) or (tops and tops <= set(SPLITS)):
        # What lies beside train/ and test/, a preview or another split, is none of their images.
        return {
            name: (folders[0], folders[1])
            for name, folders in parts.items()
            if folders[0] in SPLITS and len(folders) > 2
        }
    return {name: ("train", folders[0]) for name, folders in parts.items() if len(folders) > 1}


def _decode(name: str, content: Path | io.BytesIO, data: DataParams) -> np.ndarray:
    try:
        with Image.open(content) as image:
            return to_pixels(image, data.size, data.channels)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise WorldError(f"{data.source}: {name}: not a readable image ({error})") from None


def _stack(images: Iterator[Image.Image], data: DataParams) -> Tensor:
    return torch.from_numpy(np.stack([to_pixels(image, data.size, data.channels) for image in images]))


def to_pixels(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """A PIL image of any mode as uint8 (C, size, size).

    It is turned upright by its EXIF tag; transparent parts become white; 16-bit gray is scaled to 8; the side lengths
    are changed independently, by PIL's antialiased bilinear filter.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        array = np.asarray(image)
        sixteen_bit = image.mode.startswith("I;16") or array.max(initial=0) > 255
        top = 65535.0 if sixteen_bit else 255.0
        image = Image.fromarray(np.uint8(np.clip(array * (255.0 / top), 0, 255)))
    elif "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
