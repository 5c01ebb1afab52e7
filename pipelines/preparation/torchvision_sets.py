"""The data sets that torchvision provides by name: class, arguments of each split, and folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.preparation.listing import Split

Arguments = Mapping[Split, Mapping[str, Any]]
BY_FLAG: Arguments = {"train": {"train": True}, "test": {"train": False}}
BY_NAME: Arguments = {"train": {"split": "train"}, "test": {"split": "test"}}
BY_THREE_NAMES: Arguments = {**BY_NAME, "validation": {"split": "val"}}
TRACKS = r"Training/(\d+/\d+)_\d+\.ppm$"  # of GTSRB: about 30 frames of one sign


class TorchvisionSet(NamedTuple):
    """A data set of torchvision's.

    Args:
        kind: name of the class in ``torchvision.datasets``.
        splits: arguments of the class for each split that the data set has; for ``train`` alone it has none.
        folder: folder of the image files in the torchvision root; None if the images are in a few large files.
        group: regular expression for groups of images, see the setting ``data.group``.
        transposed: whether the files hold each image with rows and columns exchanged.
    """

    kind: str
    splits: Arguments
    folder: str | None = None
    group: str | None = None
    transposed: bool = False


def _emnist(split: str) -> TorchvisionSet:
    arguments: Arguments = {"train": {"split": split, "train": True}, "test": {"split": split, "train": False}}
    return TorchvisionSet("EMNIST", arguments, transposed=True)


TORCHVISION_SETS = {
    "cifar10": TorchvisionSet("CIFAR10", BY_FLAG),
    "cifar100": TorchvisionSet("CIFAR100", BY_FLAG),
    "mnist": TorchvisionSet("MNIST", BY_FLAG),
    "fashion_mnist": TorchvisionSet("FashionMNIST", BY_FLAG),
    "kmnist": TorchvisionSet("KMNIST", BY_FLAG),
    "emnist": _emnist("balanced"),
    **{f"emnist_{name}": _emnist(name) for name in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")},
    "usps": TorchvisionSet("USPS", BY_FLAG),
    "svhn": TorchvisionSet("SVHN", BY_NAME),
    "stl10": TorchvisionSet("STL10", BY_NAME),
    "gtsrb": TorchvisionSet("GTSRB", BY_NAME, "gtsrb", TRACKS),
    "eurosat": TorchvisionSet("EuroSAT", {"train": {}}, "eurosat"),
    "flowers102": TorchvisionSet("Flowers102", BY_THREE_NAMES, "flowers-102"),
    "oxford_iiit_pet": TorchvisionSet(
        "OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}, "oxford-iiit-pet"
    ),
    "fgvc_aircraft": TorchvisionSet("FGVCAircraft", BY_THREE_NAMES, "fgvc-aircraft-2013b"),
    "stanford_cars": TorchvisionSet("StanfordCars", BY_NAME, "stanford_cars"),
    "food101": TorchvisionSet("Food101", BY_NAME, "food-101"),
}


def open_sets(name: str, root: Path, download: bool) -> dict[Split, Any]:
    """Each split of a data set, as an object of torchvision's."""
    from torchvision import datasets

    entry = TORCHVISION_SETS[name]
    kind = getattr(datasets, entry.kind)
    return {split: kind(root, **arguments, download=download) for split, arguments in entry.splits.items()}


def class_names(dataset: Any) -> list[str]:
    """The names of the classes in the order of the labels. MNIST's "3 - three" becomes "3"."""
    names = getattr(dataset, "classes", None)
    if names is None and hasattr(dataset, "_samples"):  # GTSRB's classes have the names of their folders
        return [f"{i:05}" for i in range(1 + max(target for _, target in dataset._samples))]
    return [str(name).split(" - ")[0] if str(name)[:1].isdigit() else str(name) for name in names or "0123456789"]


def targets(dataset: Any) -> list[int]:
    """The label of each image."""
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            return [int(target) for target in getattr(dataset, attribute)]
    return [int(target) for _, target in dataset._samples]


def paths(dataset: Any) -> list[Path]:
    """The file of each image, for data sets with a folder of image files."""
    for attribute in ("_image_files", "_images"):
        if hasattr(dataset, attribute):
            return [Path(path) for path in getattr(dataset, attribute)]
    samples = dataset.samples if hasattr(dataset, "samples") else dataset._samples
    return [Path(path) for path, _ in samples]


def checksums(name: str, root: Path) -> dict[Path, str | None]:
    """The MD5 of each file that is downloaded, where it may be left incomplete; None if torchvision has none."""
    from torchvision import datasets

    entry = TORCHVISION_SETS[name]
    kind: Any = getattr(datasets, entry.kind)
    base = root / (entry.folder or "")
    if name.startswith("emnist"):
        return {root / "EMNIST" / "raw" / Path(kind.url).name: kind.md5}
    if hasattr(kind, "resources"):
        return {root / entry.kind / "raw" / file: md5 for file, md5 in kind.resources}
    if hasattr(kind, "tgz_md5"):
        return {root / kind.filename: kind.tgz_md5}
    if hasattr(kind, "split_list"):
        return {root / file: md5 for split in ("train", "test") for _, file, md5 in [kind.split_list[split]]}
    if hasattr(kind, "_file_dict"):
        return {base / file: md5 for file, md5 in kind._file_dict.values()}
    if hasattr(kind, "_RESOURCES"):
        return {base / Path(url).name: md5 for url, md5 in kind._RESOURCES}
    return {root / Path(kind._URL).name: getattr(kind, "_MD5", None)} if hasattr(kind, "_URL") else {}
