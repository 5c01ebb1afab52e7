"""prepare: complete and stratified splits, a digest of the data alone, and no partial results."""

import errno
import json
import os
import re
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import prepare as stage
from pipelines.outputs.labeled_files import Labeled, LabeledWriter
from pipelines.outputs.prepared_data import DatasetMeta, load_meta, load_split, load_training
from pipelines.params import set_value
from pipelines.preparation import decoding, run, table_files
from pipelines.preparation.decoder import hash_pixels
from pipelines.preparation.grouped_splits import split_by_group
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.preparation.run import prepare_source, report
from pipelines.preparation.shares import Shares
from pipelines.preparation.splits import SplitRows, assign_rows
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.settings.data_params import DataParams, DistortionParams, PrepareParams

ROOT = Path(__file__).resolve().parents[3]
SPLITS = ("train", "validation", "test")
SIZE = 8


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def data(source: str | Path = "tree", skip_broken: bool = False, **distortion: Any) -> DataParams:
    values = {"rotation": 0.0, "scale": [1.0, 1.0], "shift": 0.0, "padding_mode": "zeros"}
    return DataParams(
        dataset="mine",
        source=str(source),
        size=SIZE,
        channels=1,
        skip_broken=skip_broken,
        distortion=DistortionParams(**(values | distortion)),
    )


def split_settings(validation=0.25, test=0.2, seed=0) -> PrepareParams:
    return PrepareParams(validation=validation, test=test, seed=seed)


def set_source(monkeypatch, counts: list[int], test_counts: list[int] | None = None) -> None:
    """Make the source return ``counts[i]`` images of class i. The first two pixels of each image hold its number."""

    def labeled(counts: list[int], first: int) -> Labeled:
        images = torch.randint(256, (sum(counts), 1, SIZE, SIZE), generator=torch.Generator().manual_seed(first))
        number = torch.arange(first, first + sum(counts))
        images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 256, number % 256
        return Labeled(images.byte(), torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))

    test = None if test_counts is None else labeled(test_counts, sum(counts))
    raw = in_memory(labeled(counts, 0), test, [f"class{i}" for i in range(len(counts))])
    monkeypatch.setattr(run, "read_source", lambda *_: raw)


def in_memory(train: Labeled, test: Labeled | None, classes: list[str]) -> RawDataset:
    parts = {"train": train} | ({} if test is None else {"test": test})
    images, labels = (torch.cat(tensors) for tensors in zip(*parts.values(), strict=True))
    splits = np.repeat(list(parts), [len(part.labels) for part in parts.values()])
    return hashed(RawDataset(images, labels, splits, classes, "memory", np.zeros(0)))


def hashed(raw: RawDataset) -> RawDataset:
    hashes = [hash_pixels(image.numpy().tobytes()) for image in raw.images]
    return raw._replace(hashes=np.array(hashes, np.uint64))


def made() -> RawDataset:
    """What :func:`set_source` has made the source return."""
    return run.read_source(data(), split_settings(), Path(), Path())


def numbers(split: str) -> list[int]:
    first, second = load_split(split).images[:, 0, 0, :2].long().unbind(1)
    return (first * 256 + second).tolist()


def test_splits_are_disjoint_complete_and_stratified(monkeypatch):
    counts = [40, 60, 200]
    set_source(monkeypatch, counts)
    meta = prepare_source(data(), split_settings(validation=0.25, test=0.2))
    assert sorted(number for split in SPLITS for number in numbers(split)) == list(range(300))
    shares = {"test": 0.2, "validation": 0.8 * 0.25, "train": 0.8 * 0.75}
    for split, share in shares.items():
        labels = load_split(split).labels.tolist()
        # Each image kept its label.
        assert labels == [int(np.searchsorted(np.cumsum(counts), number, "right")) for number in numbers(split)]
        assert meta.counts[split] == len(labels)
        assert all(abs(Counter(labels)[label] - share * count) <= 1 for label, count in enumerate(counts))


def test_a_test_split_of_the_source_is_kept_whole(monkeypatch):
    set_source(monkeypatch, [30, 30], test_counts=[5, 7])
    prepare_source(data(), split_settings())
    assert numbers("test") == list(range(60, 72))
    assert sorted(numbers("train") + numbers("validation")) == list(range(60))
    assert len(numbers("validation")) == 15


def test_a_validation_split_of_the_source_is_kept_whole(monkeypatch):
    set_source(monkeypatch, [30, 30], test_counts=[5, 7])
    raw = made()
    own = raw._replace(splits=np.where(np.arange(72) % 30 < 10, "validation", raw.splits))
    monkeypatch.setattr(run, "read_source", lambda *_: own)
    prepare_source(data(), split_settings())
    for split in SPLITS:
        assert numbers(split) == np.flatnonzero(own.splits == split).tolist()


def test_the_seed_alone_decides_the_split(monkeypatch):
    set_source(monkeypatch, [30, 30])
    first = prepare_source(data(), split_settings(seed=1))
    split = {name: set(numbers(name)) for name in SPLITS}
    assert prepare_source(data(), split_settings(seed=1)) == first
    assert prepare_source(data(), split_settings(seed=2)).digest != first.digest
    assert all(set(numbers(name)) != split[name] for name in SPLITS)


def write_tree(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE), dtype=np.uint8)
    for i, image in enumerate(pixels):
        path = folder / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def test_the_digest_is_of_the_images_and_not_of_where_they_lie(tmp_path):
    write_tree(tmp_path / "tree")
    digest = prepare_source(data(), split_settings()).digest
    assert load_meta().digest == digest
    shutil.copytree("tree", "elsewhere/set")
    shutil.make_archive("packed", "zip", "tree")
    shutil.make_archive("packed", "gztar", "tree")
    for source in ("elsewhere", tmp_path / "tree", "packed.zip", "packed.tar.gz"):
        assert prepare_source(data(source), split_settings()).digest == digest

    seen = {digest}

    def assert_new(meta: DatasetMeta) -> None:
        assert meta.digest not in seen
        seen.add(meta.digest)

    changes: list[dict[str, Any]] = [
        {"rotation": 10.0},
        {"scale": [0.9, 1.0]},
        {"shift": 0.1},
        {"padding_mode": "border"},
    ]
    for change in changes:
        assert_new(prepare_source(data(**change), split_settings()))
    image = np.asarray(Image.open("tree/cat/00.png")).copy()
    image[3, 3] ^= 1  # a single bit
    Image.fromarray(image).save("tree/cat/00.png")
    assert_new(prepare_source(data(), split_settings()))
    Path("tree/cat/00.png").rename("tree/dog/00.png")
    Path("tree/dog/01.png").rename("tree/cat/01.png")
    assert_new(prepare_source(data(), split_settings()))
    Path("tree/dog").rename("tree/horse")  # the same pixels and label numbers, but another class name
    assert_new(prepare_source(data(), split_settings()))


def test_the_digest_is_of_the_labels_too(monkeypatch):
    """The images stay the same, and some labels change."""
    set_source(monkeypatch, [30, 30], test_counts=[5, 5])
    raw = made()
    before = prepare_source(data(), split_settings()).digest
    other = raw._replace(labels=torch.cat((raw.labels[:-10], raw.labels[-10:].flip(0))))
    monkeypatch.setattr(run, "read_source", lambda *_: other)
    assert prepare_source(data(), split_settings()).digest != before


def test_only_validation_and_test_are_stored_distorted(monkeypatch):
    set_source(monkeypatch, [40, 40])
    prepare_source(data(), split_settings())
    before = {split: load_split(split) for split in SPLITS}
    meta = prepare_source(data(rotation=40.0, scale=[0.6, 0.9], shift=0.1), split_settings())
    after = {split: load_split(split) for split in SPLITS}
    assert meta.distortion["rotation"] == 40
    assert torch.equal(before["train"].images, after["train"].images)
    for split in SPLITS:
        assert torch.equal(before[split].labels, after[split].labels)
    for split in ("validation", "test"):
        changed = (before[split].images != after[split].images).flatten(1).any(1)
        assert changed.all(), "an image was left as it was"


@pytest.mark.parametrize("distortion", [{}, {"rotation": 40.0}, {"protocol": "TC"}], ids=["none", "own", "canvas"])
def test_a_final_fit_gets_undistorted_validation_images(distortion, monkeypatch):
    """Training distorts them; images that are stored distorted would be distorted twice."""
    set_source(monkeypatch, [40, 40])
    prepare_source(data(**distortion), split_settings())
    train, validation = load_split("train"), load_split("validation")
    alone, together = load_training(), load_training(final_fit=True)
    assert torch.equal(alone.training[0].images, train.images) and len(alone.training) == 1
    for splits in (alone, together):
        assert torch.equal(splits.validation.images, validation.images)
    together_images, together_labels = (torch.cat(parts) for parts in zip(*together.training, strict=True))
    margin = (train.images.shape[-1] - SIZE) // 2
    middle = together_images[..., margin : margin + SIZE, margin : margin + SIZE]
    number = middle[:, 0, 0, :2].numpy().astype(int) @ [256, 1]
    assert np.array_equal(together_images[:48], train.images) and len(set(number)) == 64
    assert np.array_equal(middle, made().images[torch.from_numpy(number)])
    assert torch.equal(together_labels, torch.cat((train.labels, validation.labels)))


@pytest.mark.parametrize("protocol", ["R", "RTS", "P", "E", "TC"])
def test_a_protocol_distorts_validation_and_test_and_puts_all_on_the_canvas(protocol, monkeypatch):
    set_source(monkeypatch, [40, 40])
    prepare_source(data(), split_settings())
    before = {split: load_split(split) for split in SPLITS}
    meta = prepare_source(data(protocol=protocol, rotation=90.0), split_settings())  # the rotation is ignored
    after = {split: load_split(split) for split in SPLITS}
    size = {"RTS": round(SIZE * 1.5), "TC": round(SIZE * 60 / 28)}.get(protocol, SIZE)
    assert meta.image_shape == (1, size, size)
    margin = (size - SIZE) // 2
    for split in SPLITS:
        assert torch.equal(before[split].labels, after[split].labels)
        assert after[split].images.shape[1:] == (1, size, size)
        middle = after[split].images[..., margin : margin + SIZE, margin : margin + SIZE]
        if split == "train":
            assert torch.equal(middle, before[split].images)
            assert after[split].images.sum() == before[split].images.sum()  # the margin is black
        else:
            assert (middle != before[split].images).flatten(1).any(1).all(), "an image was left as it was"
    assert meta.mean == pytest.approx([(after["train"].images.double() / 255).mean().item()], rel=1e-5)
    other = "E" if protocol == "P" else "P"
    assert prepare_source(data(protocol=other), split_settings()).digest != meta.digest


def test_without_a_protocol_the_digest_is_that_of_earlier_versions(monkeypatch):
    """Registered models carry the digest, and only models with the same digest are compared."""
    set_source(monkeypatch, [40, 40])
    meta = prepare_source(data(protocol="none", rotation=40.0), split_settings())
    assert meta.distortion.keys() == {"rotation", "scale", "shift", "padding_mode"}
    assert meta.digest == prepare_source(data(rotation=40.0), split_settings()).digest


def test_mean_and_std_are_the_training_images(monkeypatch):
    set_source(monkeypatch, [50, 50])
    meta = prepare_source(data(rotation=30.0), split_settings())
    train = load_split("train").images.numpy().astype(np.float64) / 255
    assert meta.mean == pytest.approx(train.mean((0, 2, 3)), rel=1e-5)
    assert meta.std == pytest.approx(train.std((0, 2, 3)), rel=1e-3)

    flat = Labeled(torch.full((20, 1, SIZE, SIZE), 7, dtype=torch.uint8), torch.arange(20) % 2)
    monkeypatch.setattr(run, "read_source", lambda *_: in_memory(flat, None, ["a", "b"]))
    assert min(prepare_source(data(), split_settings()).std) > 0, "a channel with one value would be divided by zero"


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_an_interrupted_run_leaves_the_result_before_it(broken, monkeypatch):
    set_source(monkeypatch, [30, 30])
    prepare_source(data(), split_settings(seed=1))
    before = {file.name: file.read_bytes() for file in Path("data/prepared").iterdir()}
    calls, write = 0, LabeledWriter.write

    def interrupted(file, images):
        nonlocal calls
        calls += 1
        if calls == broken:
            raise KeyboardInterrupt
        write(file, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabeledWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_source(data(), split_settings(seed=2))
    assert {file.name: file.read_bytes() for file in Path("data/prepared").iterdir()} == before
    assert [path.name for path in Path("data").iterdir()] == ["prepared"]
    again = prepare_source(data(), split_settings(seed=2))
    assert json.loads(Path("data/prepared/meta.json").read_text()) == again.to_json()
    assert sorted(number for split in SPLITS for number in numbers(split)) == list(range(60))


@pytest.mark.parametrize("size", [300, 900])
def test_a_full_disk_names_the_folder_and_leaves_the_result_before_it(size, monkeypatch, files_of_at_most):
    set_source(monkeypatch, [30, 30])
    prepare_source(data(), split_settings(seed=1))
    before = {file.name: file.read_bytes() for file in Path("data/prepared").iterdir()}
    assert size < max(map(len, before.values()))
    with files_of_at_most(size), pytest.raises(OSError, match="File too large") as raised:
        prepare_source(data(), split_settings(seed=2))
    assert raised.value.filename == "data/prepared"
    assert {file.name: file.read_bytes() for file in Path("data/prepared").iterdir()} == before
    assert [path.name for path in Path("data").iterdir()] == ["prepared"]
    again = prepare_source(data(), split_settings(seed=2))
    assert load_meta() == again


def test_the_second_of_two_preparations_waits(monkeypatch, capsys):
    set_source(monkeypatch, [30, 30])
    active, active_counts = [], []

    def slow(raw, *arguments, **options):
        active.append(raw)
        active_counts.append(len(active))
        time.sleep(0.3)
        write_splits(raw, *arguments, **options)
        active.pop()

    write_splits = run.write_splits
    monkeypatch.setattr(run, "write_splits", slow)
    threads = [threading.Thread(target=prepare_source, args=(data(), split_settings(seed=seed))) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert active_counts == [1, 1] and "is working on the same task" in capsys.readouterr().out
    assert load_meta().digest and sorted(number for split in SPLITS for number in numbers(split)) == list(range(60))


def test_too_few_images_are_refused_by_the_setting_that_asks_for_them(monkeypatch):
    set_source(monkeypatch, [30, 1])
    with pytest.raises(UserError, match=r"prepare\.test: 0\.2 given; .*the smallest is class1, 1 image\)"):
        prepare_source(data(), split_settings())
    set_source(monkeypatch, [30, 1], test_counts=[5, 5])
    with pytest.raises(UserError, match=r"prepare\.validation: 0\.25 given; .*the smallest is class1, 1 image\)"):
        prepare_source(data(), split_settings())
    assert not Path("data/prepared").exists()


def split_all(counts: list[int], shares: Shares) -> str:
    """The refusal of a source with these images of each class; empty if every part holds every class."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    whole = Labeled(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)
    raw = in_memory(whole, None if shares.test else whole, [f"class{i}" for i in range(len(counts))])
    try:
        splits = assign_rows(raw, split_settings(shares.validation or 0.25, shares.test or 0.2))
    except UserError as error:
        return str(error)
    assert all(len(np.unique(raw.labels.numpy()[rows])) == len(counts) for rows in splits)
    return ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=25) | st.integers(2, 25).map(lambda n: [10] * n),
    validation=st.floats(0.01, 0.99), test=st.none() | st.floats(0.01, 0.99), surplus=st.integers(0, 40),
)  # fmt: skip
@example(counts=[10] * 20, validation=0.1, test=0.2, surplus=0)
def test_a_refusal_of_small_classes_names_settings_that_work(counts, validation, test, surplus):
    message = split_all(counts, Shares(test, validation))
    if not message:
        return
    found = {name: float(share) for name, share in re.findall(r"prepare\.(\w+): (\S+?)(?= and| would)", message)}
    assert found or min(counts) < 6, message
    if found:
        other = Shares(test and found.get("test", test), found.get("validation") or validation)
        assert split_all(counts, other) == "", message
    enough = re.search(r"(\d+) images of each class are enough$", message)
    assert enough, message
    more = [int(enough[1]) + surplus * (i % 3) for i in range(len(counts))]
    assert split_all(more, Shares(test, validation)) == "", message


def grouped(labels: list[int], groups: list[int], shares: Shares) -> tuple[str, SplitRows | None]:
    """The refusal of a source with these images, or the rows of each split."""
    number, classes = torch.tensor(labels), [f"class{i}" for i in range(max(labels) + 1)]
    splits = np.array(["train"] * len(labels) + ["test"] * len(classes) * (shares.test is None))
    number = torch.cat((number, torch.arange(len(classes)))) if shares.test is None else number
    every = np.array([*groups, *range(10**6, 10**6 + len(splits) - len(groups))])
    raw = RawDataset(
        torch.zeros(len(number), 1, 1, 1).byte(), number, splits, classes, "memory", np.zeros(0), groups=every
    )
    try:
        return "", assign_rows(raw, split_settings(shares.validation or 0.25, shares.test or 0.2))
    except UserError as error:
        return str(error), None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8)), min_size=4, max_size=40),
    validation=st.sampled_from([0.1, 0.25, 0.4, 0.07]), test=st.none() | st.sampled_from([0.2, 0.33, 0.5]),
    mixed=st.booleans(),
)  # fmt: skip
@example(sizes=[(0, 3)] * 3 + [(1, 3)] * 3, validation=0.1, test=0.2, mixed=False)
def test_no_group_is_in_two_splits_and_refusals_name_shares_that_work(sizes, validation, test, mixed):
    """``sizes``: the class and the number of images of each group; ``mixed``: groups may have images of two classes."""
    names = sorted({label for label, _ in sizes})
    pairs = [((names.index(label) + (mixed and i % 3 == 0)) % len(names), group)
             for group, (label, count) in enumerate(sizes) for i in range(count)]  # fmt: skip
    labels, groups = [label for label, _ in pairs], [group for _, group in pairs]
    if len(set(labels)) < max(labels) + 1 or max(labels) == 0:
        return
    message, rows = grouped(labels, groups, Shares(test, validation))
    if rows is not None:
        parts = [part[part < len(labels)] for part in rows]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
        present = [{groups[i] for i in part} for part in parts]
        assert not (present[0] & present[1] or present[0] & present[2] or present[1] & present[2])
        for part, wanted in zip(parts, (True, True, test is not None), strict=True):
            assert not wanted or {labels[i] for i in part} == set(labels)
        return
    assert re.match(r"prepare\.(test|validation): \S+ given; \d+ images of \d+ groups in \d classes", message)
    found = {name: float(share) for name, share in re.findall(r"prepare\.(\w+): (\S+?)(?= and| would)", message)}
    assert found or "needs a group of each class" in message
    if found:
        assert grouped(labels, groups, Shares(found.get("test", test), found.get("validation", validation)))[1], message


def test_splits_by_group_have_about_their_shares():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), random.integers(5, 30, 200))
    labels = (groups % 4).tolist()
    _, rows = grouped(labels, groups.tolist(), Shares(0.2, 0.1))
    assert rows is not None
    shares = {"test": 0.2, "validation": 0.8 * 0.1, "train": 0.8 * 0.9}
    for name, share in shares.items():
        part = getattr(rows, name)
        assert abs(len(part) / len(labels) - share) < 0.02
        assert all(abs(np.mean(np.array(labels)[part] == label) - 0.25) < 0.08 for label in range(4))


@pytest.mark.parametrize("share", [0.01, 0.02, 0.03, 0.5, 0.97, 0.98, 0.99])
def test_small_and_large_shares_of_groups_are_kept_up_to_one_fold(share):
    groups = np.repeat(np.arange(200), 10)
    _, rows = grouped((groups % 4).tolist(), groups.tolist(), Shares(None, share))
    assert rows is not None
    assert abs(len(rows.validation) / len(groups) - share) <= 1 / 20


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    numbers=st.lists(st.integers(1, 30), min_size=2, max_size=4), size=st.integers(1, 4), share=st.floats(0.01, 0.99)
)
@example(numbers=[2, 2], size=5, share=0.02)
@example(numbers=[30, 30], size=2, share=0.02)
def test_a_share_of_groups_is_kept_or_refused_with_one_that_works(numbers, size, share):
    """``numbers``: groups of each class, all of one size."""
    labels = np.repeat(np.arange(len(numbers)), np.multiply(numbers, size))
    groups = np.arange(len(labels)) // size
    message, rows = grouped(labels.tolist(), groups.tolist(), Shares(None, share))
    if rows is not None:
        assert abs(len(rows.validation) / len(labels) - share) <= 1 / 20 + 2 / sum(numbers)
        return
    found = re.search(r"prepare\.validation: (\S+) would do$", message)
    assert bool(found) == (min(numbers) > 1), message
    if found:
        assert grouped(labels.tolist(), groups.tolist(), Shares(None, float(found[1])))[1] is not None


def test_of_the_folds_those_nearest_to_the_share_are_taken():
    """Each of four folds has one group, and each group has both classes."""
    sizes = [10, 24, 30, 36]
    groups = np.repeat(np.arange(4), sizes).repeat(2)
    labels = np.arange(len(groups)) % 2
    for seed in range(8):
        parts = split_by_group(labels, groups, 0.25, seed, 2)
        assert parts is not None and len(parts[1]) == 2 * 24


def test_groups_are_counted_and_those_in_two_splits_of_the_source_are_reported(monkeypatch, capsys):
    set_source(monkeypatch, [40, 40], test_counts=[5, 5])
    raw = made()
    groups = np.arange(90) // 4
    groups[80:] = [0, 1, 10, 50, 50, 51, 51, 52, 52, 52]
    monkeypatch.setattr(
        run, "read_source", lambda *_: raw._replace(groups=groups, left_alone=["3 files (.mpo 3): why"])
    )
    meta = prepare_source(data(), split_settings())
    assert meta.groups["train"] + meta.groups["validation"] == 20 and meta.groups["test"] == 6
    assert meta.shared_groups == {"validation": 0, "test": 3} and load_meta() == meta
    report(meta)
    said = capsys.readouterr().out
    assert f"groups: {meta.groups['train']} in train, {meta.groups['validation']} in validation, 6 in test" in said
    assert "groups: 3 of the 6 in test are also in train or validation" in said
    assert "left alone: 3 files (.mpo 3): why" in said and "validation are also" not in said


def test_every_part_holds_every_class_or_nothing_is_prepared(monkeypatch):
    """The accuracy of a class without test images is 0/0, which would show only hours later, in the stage evaluate."""
    lacking = {}
    for rare in range(2, 12):
        set_source(monkeypatch, [100, rare])
        try:
            prepare_source(data(), split_settings(validation=0.1, test=0.1))
        except UserError:
            continue
        classes = {split: sorted(set(load_split(split).labels.tolist())) for split in SPLITS}
        if any(present != [0, 1] for present in classes.values()):
            lacking[rare] = classes
    assert lacking == {}


def test_duplicates_are_counted_and_reported(monkeypatch, capsys):
    set_source(monkeypatch, [20, 20], test_counts=[5, 5])
    raw = made()
    raw.images[7] = raw.images[6]
    raw.images[[40, 44, 49]] = raw.images[[0, 1, 39]]
    monkeypatch.setattr(run, "read_source", lambda *_: hashed(raw))
    meta = prepare_source(data(), split_settings())
    assert meta.duplicates["test"] == 3 and load_meta().duplicates == meta.duplicates
    apart = {split: {image.numpy().tobytes() for image in load_split(split).images} for split in SPLITS}
    assert meta.duplicates["validation"] == len(apart["train"] & apart["validation"])
    report(meta)
    assert "duplicates: 3 of the 10 test images" in capsys.readouterr().out


def test_files_left_out_are_listed(tmp_path, capsys):
    write_tree(tmp_path / "tree")
    for i in range(7):
        Path(f"tree/cat/broken {i}.png").write_bytes(b"")
    meta = prepare_source(data(skip_broken=True), split_settings())
    assert load_meta().broken == {f"cat/broken {i}.png": "the file is empty" for i in range(7)}
    report(meta)
    said = capsys.readouterr().out.splitlines()
    assert "skipped: cat/broken 0.png: the file is empty" in said and "skipped: 7 files" in said[-1]


@pytest.mark.parametrize(("fit", "done"), [("stretch", "stretched"), ("pad", "padded"), ("crop", "cropped")])
def test_images_of_another_aspect_ratio_are_counted(tmp_path, fit, done, capsys):
    write_tree(tmp_path / "tree")
    for name in ("cat/wide.png", "dog/wide.png"):
        Image.new("L", (2 * SIZE, SIZE), 7).save(Path("tree") / name)
    Image.new("L", (2 * SIZE, 2 * SIZE), 7).save("tree/dog/large.png")
    meta = prepare_source(data().model_copy(update={"fit": fit}), split_settings())
    report(meta)
    assert meta.fitted == 2 and f"shapes: 2 images with another aspect ratio, {done}" in capsys.readouterr().out


def test_the_error_is_shown_if_its_files_cannot_be_deleted(tmp_path, monkeypatch):
    """NFS keeps the folder of a deleted file that a process still has open."""
    write_tree(tmp_path / "tree")
    prepare_source(data(), split_settings())
    before = load_meta()
    Path("tree/cat/broken.png").write_bytes(b"")
    rmdir = os.rmdir

    def busy(path, *arguments, **options):
        if Path(path).name not in ("prepared", ".prepared-before"):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", path)
        rmdir(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        with pytest.raises(ExternalError, match=r"cat/broken\.png"):
            prepare_source(data(), split_settings())
    assert load_meta() == before
    Path("tree/cat/broken.png").unlink()
    assert prepare_source(data(), split_settings()) == before
    assert [path.name for path in Path("data").iterdir()] == ["prepared"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_pixels_are_deleted_after_their_last_use(tmp_path, monkeypatch):
    write_tree(tmp_path / "tree")
    mapped, rmtree = [], shutil.rmtree

    def spy(path, *arguments, **options):
        mapped.append(f"{Path(path).resolve()}/" in Path("/proc/self/maps").read_text())
        rmtree(path, *arguments, **options)

    monkeypatch.setattr(run.shutil, "rmtree", spy)
    prepare_source(data(), split_settings())
    assert mapped and not any(mapped)
    assert sorted(path.name for path in Path("data/prepared").iterdir()) == [
        "meta.json", "test.safetensors", "train.safetensors", "validation.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize("distortion", [{}, {"rotation": 20.0}])
def test_small_chunks_give_the_same_files(tmp_path, monkeypatch, distortion):
    write_tree(tmp_path / "tree")
    files = sorted(Path("tree").glob("*/*.png"))
    contents = [b"broken" if i in (0, 7, 8, 21, 39) else file.read_bytes() for i, file in enumerate(files)]
    Path("table").mkdir()
    columns = {"image": pa.array(contents, pa.binary()), "label": [file.parent.name for file in files]}
    pq.write_table(pa.table(columns), "table/a.parquet")

    def prepared() -> dict[str, bytes]:
        prepare_source(data("table", skip_broken=True, **distortion), split_settings())
        return {file.name: file.read_bytes() for file in Path("data/prepared").iterdir()}

    whole = prepared()
    meta = json.loads(whole["meta.json"])
    assert sum(meta["counts"].values()) == 35 and len(meta["broken"]) == 5
    for module, name, value in SMALL:
        assert getattr(module, name) > value
        monkeypatch.setattr(module, name, value)
    assert prepared() == whole


SMALL = [(table_files, "BATCH", 1), (decoding, "CHUNK", 2)]


def test_a_source_that_is_refused_leaves_the_result_before_it(tmp_path):
    write_tree(tmp_path / "tree")
    prepare_source(data(), split_settings())
    before = {file.name: file.read_bytes() for file in Path("data/prepared").iterdir()}
    Path("tree/cat/broken.png").write_bytes(b"")
    with pytest.raises(ExternalError, match=r"cat/broken\.png"):
        prepare_source(data(), split_settings())
    assert {file.name: file.read_bytes() for file in Path("data/prepared").iterdir()} == before
    assert [path.name for path in Path("data").iterdir()] == ["prepared"]


def test_kernels_larger_than_the_image_are_refused_before_anything_is_read(monkeypatch):
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    shutil.copytree(ROOT / "variants", "variants")
    for setting in ("data.size=8", "data.source=/nowhere", "variants=[stn]"):
        set_value(setting)
    with pytest.raises(UserError, match=r"variants/stn\.yaml: .*8×8 pixels is too small"):
        stage.main()


def test_missing_prepared_data_are_an_error():
    with pytest.raises(UserError, match="dvc repro prepare"):
        load_meta()
