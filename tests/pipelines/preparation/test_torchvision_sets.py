"""The data sets of torchvision, each read from small files in its exact layout."""

import bz2
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from pipelines.preparation.listing import SPLITS
from pipelines.preparation.sources import list_images
from pipelines.preparation.torchvision_sets import TORCHVISION_SETS
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.settings.data_params import DataParams, DistortionParams
from pipelines.settings.dataset_defaults import DATASET_DEFAULTS
from tests.pipelines.preparation.reading import Source, read_source


def data(root: Path, name: str, size: int, channels: Any = 3, **settings: Any) -> DataParams:
    still = DistortionParams(rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    return DataParams(
        dataset=name, source=str(root), size=size, channels=channels, skip_broken=False, distortion=still, **settings
    )


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def write_images(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Write a different image to each file, losslessly under any ending, as (3, 8, 8)."""
    images = {}
    for i, name in enumerate(names):
        images[name] = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[name]).save(folder / name, "PPM" if name.endswith("ppm") else "PNG")
    return {name: image.transpose(2, 0, 1) for name, image in images.items()}


def found(source: Source) -> list[tuple[bytes, str, str]]:
    """Pixels, class and split of each image."""
    parts = zip(source.images, source.labels, source.splits, strict=True)
    return [(image.numpy().tobytes(), source.classes[label], str(split)) for image, label, split in parts]


def expected(images: dict[str, np.ndarray], rows: list[tuple[str, str, str]]) -> list[tuple[bytes, str, str]]:
    return [(images[name].tobytes(), label, split) for name, label, split in rows]


def no_checksums(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Accept files that differ from the published ones."""
    monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, *_: Path(path).exists())


def test_every_data_set_has_defaults_and_its_class():
    assert TORCHVISION_SETS.keys() | {"digits"} == DATASET_DEFAULTS.keys()
    assert all(hasattr(datasets, entry.kind) for entry in TORCHVISION_SETS.values())


def test_cifar100(tmp_path, monkeypatch):
    no_checksums(monkeypatch, "cifar")
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"class {i}" for i in range(4)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["x"]}))
    images = random(6, 3, 32, 32)
    for split, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        batch = {"data": images[rows].reshape(-1, 3072), "fine_labels": list(range(6))[rows], "coarse_labels": [0] * 4}
        batch["fine_labels"] = [label % 4 for label in batch["fine_labels"]]
        (folder / split).write_bytes(pickle.dumps(batch))
    source = read_source(data(tmp_path, "cifar100", 32))
    assert source.classes == names and np.array_equal(source.images, images)
    assert source.labels.tolist() == [0, 1, 2, 3, 0, 1] and source.splits.tolist() == ["train"] * 4 + ["test"] * 2


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_kmnist(tmp_path):
    images = random(12, 28, 28)
    for split, rows in (("train", slice(0, 10)), ("t10k", slice(10, 12))):
        write_idx(tmp_path / f"KMNIST/raw/{split}-images-idx3-ubyte", images[rows])
        write_idx(tmp_path / f"KMNIST/raw/{split}-labels-idx1-ubyte", np.arange(12, dtype=np.uint8)[rows] % 10)
    source = read_source(data(tmp_path, "kmnist", 28, 1))
    assert source.classes == ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
    assert np.array_equal(source.images[:, 0], images) and source.labels.tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize(
    ("name", "split", "labels", "classes"),
    [("emnist", "balanced", [0, 10, 36, 46], ["0", "A", "a", "t"]),
     ("emnist_letters", "letters", [1, 2, 26], ["a", "b", "z"]), ("emnist_digits", "digits", [0, 9], ["0", "9"]),
     ("emnist_byclass", "byclass", [0, 35, 61], ["0", "Z", "z"])],
)  # fmt: skip
def test_emnist_is_upright(name, split, labels, classes, tmp_path):
    """Its files hold rows and columns exchanged, other than MNIST's."""
    upright = random(len(labels), 28, 28)
    for part in ("train", "test"):
        stem = tmp_path / f"EMNIST/raw/emnist-{split}-{part}"
        write_idx(Path(f"{stem}-images-idx3-ubyte"), upright.transpose(0, 2, 1).copy())
        write_idx(Path(f"{stem}-labels-idx1-ubyte"), np.array(labels, np.uint8))
    source = read_source(data(tmp_path, name, 28, 1))
    assert [source.classes[label] for label in source.labels] == classes * 2
    assert np.array_equal(source.images[: len(labels), 0], upright) and "N/A" not in source.classes


def test_usps(tmp_path):
    values = np.linspace(-1, 1, 256)
    for name, labels in (("usps.bz2", [1, 10, 3]), ("usps.t.bz2", [2, 1])):
        lines = [f"{label} " + " ".join(f"{i + 1}:{value:.6f}" for i, value in enumerate(values)) for label in labels]
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    source = read_source(data(tmp_path, "usps", 16, 1))
    assert [source.classes[label] for label in source.labels] == ["0", "9", "2", "1", "0"]
    assert np.abs(source.images[0].numpy().ravel() - (values + 1) / 2 * 255).max() < 1.01


def test_stl10(tmp_path, monkeypatch):
    no_checksums(monkeypatch, "stl10")
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = random(5, 3, 96, 96)
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\n")
    for split, rows in (("train", slice(0, 3)), ("test", slice(3, 5))):
        images[rows].transpose(0, 1, 3, 2).tofile(folder / f"{split}_X.bin")  # columns first
        (np.arange(5, dtype=np.uint8)[rows] % 3 + 1).tofile(folder / f"{split}_y.bin")
    (folder / "unlabeled_X.bin").touch()
    (folder / "fold_indices.txt").touch()
    source = read_source(data(tmp_path, "stl10", 96))
    assert source.classes == ["airplane", "bird", "car"] and source.labels.tolist() == [0, 1, 2, 0, 1]
    assert np.array_equal(source.images, images)


def test_gtsrb_has_its_tracks_as_groups(tmp_path):
    train = [f"GTSRB/Training/{c:05}/{t:05}_{f:05}.ppm" for c in range(2) for t in range(2) for f in range(2)]
    test = ["GTSRB/Final_Test/Images/00000.ppm", "GTSRB/Final_Test/Images/00001.ppm"]
    images = write_images(tmp_path / "gtsrb", [*train, *test])
    (tmp_path / "gtsrb/GTSRB/Training/00000/GT-00000.csv").touch()
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    (tmp_path / "gtsrb/GT-final_test.csv").write_text(header + "00000.ppm;8;8;1;1;6;6;1\n00001.ppm;8;8;1;1;6;6;0\n")
    source = read_source(data(tmp_path, "gtsrb", 8))
    rows = [(name, name.split("/")[2], "train") for name in train] + [
        (test[0], "00001", "test"),
        (test[1], "00000", "test"),
    ]
    assert found(source) == expected(images, rows)
    assert source.groups is not None and source.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]
    (tmp_path / "gtsrb/GTSRB/Final_Test/Images/00001.ppm").unlink()
    with pytest.raises(
        ExternalError, match=r"gtsrb in .* is truncated or damaged \(1 image file missing, such as gtsrb/"
    ):
        list_images(data(tmp_path, "gtsrb", 8))


def test_eurosat_has_no_splits(tmp_path):
    names = ["2750/Forest/Forest_1.jpg", "2750/Forest/Forest_2.jpg", "2750/River/River_1.jpg"]
    images = write_images(tmp_path / "eurosat", names)
    source = read_source(data(tmp_path, "eurosat", 8))
    assert found(source) == expected(images, [(name, name.split("/")[1], "train") for name in names])


def test_flowers102_has_its_own_validation_split(tmp_path, monkeypatch):
    no_checksums(monkeypatch, "flowers102")
    names = [f"jpg/image_{i:05}.jpg" for i in range(1, 7)]
    images = write_images(tmp_path / "flowers-102", names)
    savemat(tmp_path / "flowers-102/imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 102, 1]], np.uint8)})
    savemat(tmp_path / "flowers-102/setid.mat", {"trnid": [[2, 5]], "valid": [[1, 3]], "tstid": [[4, 6]]})
    names_of = ["pink primrose", "hard-leaved pocket orchid"]
    rows = [
        (names[1], names_of[1], "train"), (names[4], "blackberry lily", "train"),
        (names[0], names_of[0], "validation"), (names[2], names_of[0], "validation"),
        (names[3], names_of[1], "test"), (names[5], names_of[0], "test"),
    ]  # fmt: skip
    source = read_source(data(tmp_path, "flowers102", 8))
    assert found(source) == expected(images, rows) and len(source.classes) == 102


def test_oxford_iiit_pet(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    ids = ["Abyssinian_1", "american_bulldog_2", "Abyssinian_3", "american_bulldog_4"]
    images = write_images(folder, [f"images/{name}.jpg" for name in ids])
    (folder / "annotations/trimaps").mkdir(parents=True)
    lines = [f"{name} {1 + ('bulldog' in name)} {1 + ('bulldog' in name)} 1\n" for name in ids]
    (folder / "annotations/trainval.txt").write_text("".join(lines[:2]))
    (folder / "annotations/test.txt").write_text("".join(lines[2:]))
    labels = ["Abyssinian", "American Bulldog"] * 2
    splits = ["train", "train", "test", "test"]
    rows = [(f"images/{name}.jpg", label, split) for name, label, split in zip(ids, labels, splits, strict=True)]
    assert found(read_source(data(tmp_path, "oxford_iiit_pet", 8))) == expected(images, rows)


def test_fgvc_aircraft(tmp_path):
    folder = tmp_path / "fgvc-aircraft-2013b"
    ids = [f"{i:07}" for i in range(6)]
    images = write_images(folder, [f"data/images/{name}.jpg" for name in ids])
    (folder / "data/variants.txt").write_text("707-320\nA330 - 200\n")
    rows = []
    for i, (split, file) in enumerate(zip(SPLITS, ("train", "val", "test"), strict=True)):
        pairs = list(zip(ids[2 * i : 2 * i + 2], ("707-320", "A330 - 200"), strict=True))
        (folder / f"data/images_variant_{file}.txt").write_text("".join(f"{name} {label}\n" for name, label in pairs))
        rows += [(f"data/images/{name}.jpg", label, split) for name, label in pairs]
    assert found(read_source(data(tmp_path, "fgvc_aircraft", 8))) == expected(images, rows)


def test_stanford_cars(tmp_path):
    folder = tmp_path / "stanford_cars"
    images = write_images(folder, [f"cars_{s}/{i:05}.jpg" for s in ("train", "test") for i in (1, 2)])
    (folder / "devkit").mkdir()
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    for path, labels in (("devkit/cars_train_annos.mat", (2, 1)), ("cars_test_annos_withlabels.mat", (1, 2))):
        rows = np.array([(1, label, f"{i:05}.jpg") for i, label in enumerate(labels, 1)], dtype=kind)
        savemat(folder / path, {"annotations": rows})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["Audi - TT", "BMW X5"], dtype=object)})
    rows = [("cars_train/00001.jpg", "BMW X5", "train"), ("cars_train/00002.jpg", "Audi - TT", "train"),
            ("cars_test/00001.jpg", "Audi - TT", "test"), ("cars_test/00002.jpg", "BMW X5", "test")]  # fmt: skip
    assert found(read_source(data(tmp_path, "stanford_cars", 8))) == expected(images, rows)


def test_food101(tmp_path):
    folder = tmp_path / "food-101"
    images = write_images(folder, [f"images/{c}/{i}.jpg" for c in ("pie", "soup") for i in range(2)])
    (folder / "meta").mkdir()
    for split, i in (("train", 0), ("test", 1)):
        (folder / f"meta/{split}.json").write_text(json.dumps({c: [f"{c}/{i}"] for c in ("pie", "soup")}))
    rows = [(f"images/{c}/{i}.jpg", c, split) for i, split in enumerate(("train", "test")) for c in ("pie", "soup")]
    assert found(read_source(data(tmp_path, "food101", 8))) == expected(images, rows)


def test_a_group_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"data\.group: 'patient' given; it does not fit 1797 names of files, such as 0, 1"
    ):
        list_images(data(Path("data/raw"), "digits", 8, 1, group="patient"))
