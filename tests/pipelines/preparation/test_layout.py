"""Class folders: names of splits, folders that only look like splits, and files that are left alone."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.preparation.listing import Listing, Split
from pipelines.preparation.sources import list_images
from pipelines.preparation.split_names import split_of_path
from pipelines.runtime.errors import UserError
from pipelines.settings.data_params import DataParams, DistortionParams


def data(source: Path, **settings: Any) -> DataParams:
    still = DistortionParams(rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    values = {"size": 8, "channels": 3, "skip_broken": False, "distortion": still}
    return DataParams(dataset="mine", source=str(source), **(values | settings))


def listed(folder: Path, names: Collection[str], **settings: Any) -> Listing:
    """List images with these names; other endings are empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / name)
        else:
            (folder / name).touch()
    return list_images(data(folder, **settings))


def in_folders(*folders: str) -> list[str]:
    return [f"{folder}/{label}/1.png" for folder in folders for label in ("cat", "dog")]


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Training", "Testing"), ("train", "test")),
        (("training_set", "test_set"), ("train", "test")),
        (("training_set/training_set", "test_set/test_set"), ("train", "test")),
        (("train", "eval"), ("train", "test")),
        (("TRAIN", "VAL", "TEST"), ("train", "validation", "test")),
        (("train", "valid"), ("train", "validation")),
        (("a/b/train", "a/b/dev", "a/b/test"), ("train", "validation", "test")),
        (("train", "validation", "test", "extra"), ("train", "validation", "test", None)),
    ],
)
def test_names_of_splits(tmp_path, folders, splits):
    listing = listed(tmp_path, in_folders(*folders))
    assert listing.classes == ["cat", "dog"]
    places = {record.name: (record.label, record.split) for record in listing.records}
    assert places == {
        f"{folder}/{label}/1.png": (label, split)
        for folder, split in zip(folders, splits, strict=True)
        for label in ("cat", "dog")
        if split
    }
    strays = ["2 files (.png 2): images outside the class folders, such as extra/cat/1.png, extra/dog/1.png"]
    assert listing.left_alone == (strays if "extra" in folders else [])


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_classes_with_names_of_splits_stay_classes(tmp_path, form):
    """A train is a vehicle."""
    listing = listed(tmp_path / "set", ["car/1.png", "train/1.png", "bus/1.png"])
    if form == "zip":
        shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "set")
        listing = list_images(data(tmp_path / "packed.zip"))
    assert listing.classes == ["bus", "car", "train"]


@pytest.mark.parametrize("folders", [("fold1", "fold2"), ("train", "holdout"), ("set/a", "set/b", "set/c")])
def test_folders_that_hold_the_same_classes_are_refused_by_name(tmp_path, folders):
    with pytest.raises(UserError) as caught:
        listed(tmp_path, in_folders(*folders))
    names = ", ".join(sorted(folder.rpartition("/")[2] for folder in folders))
    assert f"has the folders {names}, which all hold the folders cat, dog" in str(caught.value)
    assert "rename them to train, val, test" in str(caught.value)


def test_classes_with_different_folders_inside_are_classes(tmp_path):
    listing = listed(tmp_path, ["cat/a/1.png", "cat/b/1.png", "dog/b/1.png", "dog/c/1.png"])
    assert listing.classes == ["cat", "dog"]


def test_two_folders_of_one_split_are_refused(tmp_path):
    with pytest.raises(UserError, match="the folders eval and test, which both stand for the split test"):
        listed(tmp_path, in_folders("train", "eval", "test"))


def test_a_split_that_lacks_a_class_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no image of class dog in validation/"):
        listed(tmp_path, [*in_folders("train", "test"), "val/cat/1.png"])
    with pytest.raises(UserError, match=r"has images in validation/ and test/ alone"):
        listed(tmp_path / "other", in_folders("val", "test"))


def test_files_that_are_left_alone_are_counted_by_ending(tmp_path):
    names = [
        "notes.txt",
        "cat/Thumbs.db",
        "dog/1.mpo",
        "dog/2.mpo",
        "dog/LICENSE",
        ".DS_Store",
        "__MACOSX/x.txt",
        "9.png",
    ]
    assert listed(tmp_path, [*in_folders("."), *names]).left_alone == [
        "5 files (.mpo 2, .db 1, .txt 1, LICENSE 1): no image format that is read",
        "1 file (.png 1): images outside the class folders, such as 9.png",
    ]


def test_groups_are_found_by_a_pattern_on_names(tmp_path):
    names = [f"{c}/{t:05}_{f:05}.png" for c in ("a", "b") for t in range(2) for f in range(2)]
    records = listed(tmp_path, names, group=r"([^/]+)/(\d+)_\d+\.png$").records
    assert [record.group for record in records] == ["a/00000"] * 2 + ["a/00001"] * 2 + ["b/00000"] * 2 + ["b/00001"] * 2
    records = listed(tmp_path, names, group=r"\d+_").records  # without parentheses: all that matches
    assert {record.group for record in records} == {"00000_", "00001_"}
    with pytest.raises(
        UserError, match=r"data\.group: 'a/' given; it does not fit 4 names of files, such as b/00000_00000"
    ):
        listed(tmp_path, names, group="a/")
    with pytest.raises(ValueError, match="group: '\\(' given; it is no regular expression"):
        data(tmp_path, group="(")


def test_images_of_an_own_test_split_need_no_group(tmp_path):
    names = [*(f"train/{c}/p{i}_1.png" for c in "ab" for i in range(3)), "test/a/x.png", "test/b/p1_1.png"]
    groups = {record.name: record.group for record in listed(tmp_path, names, group=r"p(\d)_").records}
    assert groups["test/a/x.png"] is None and groups["test/b/p1_1.png"] == "1" == groups["train/a/p1_1.png"]


@pytest.mark.parametrize(
    ("path", "split"),
    [("data/train-00000-of-00002.parquet", "train"), ("GT-final_test.csv", "test"),
     ("Training/a/GT-00001.csv", "train"), ("my_val.csv", "validation"),
     ("dev.jsonl", "validation"), ("labels.csv", None), ("trained.csv", None)],
)  # fmt: skip
def test_splits_in_paths(path, split: Split | None):
    assert split_of_path(path) == split
