"""Checkpoint storage: a folder or S3, refused if a host cannot read it, deleted when a training is done."""

from pathlib import Path

import pytest

from pipelines.runtime.errors import ExternalError, UserError
from pipelines.training import host_checks
from pipelines.training.checkpoints import (
    CheckpointWriter,
    FileSystem,
    check_writable,
    checkpoints,
    remove,
    seed_storage,
    storage_of,
)
from pipelines.training.host_checks import check_reachable, read_error
from pipelines.training.precision import Precision
from pipelines.training.state import SeedState, load_states, serialize


def after(epochs: int, seed: int = 0) -> bytes:
    """A checkpoint of a seed after some epochs."""
    return serialize(SeedState(seed, Precision("float32", "by hand"), trainer={"epoch": epochs}))


@pytest.fixture
def alone(monkeypatch):
    """A cluster that consists of the driver's host."""
    monkeypatch.setattr(host_checks, "run_on_other_hosts", lambda *_: {})


@pytest.fixture(params=["folder", "s3"])
def shared(request, tmp_path, monkeypatch) -> str:
    """CHECKPOINT_STORAGE, set to a folder or a bucket's folder."""
    place = f"{tmp_path}/shared"
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3").env.items():
            monkeypatch.setenv(name, value)
        place = f"s3://bucket/{tmp_path.name}"
    monkeypatch.setenv("CHECKPOINT_STORAGE", place)
    return place


def test_by_default_checkpoints_lie_in_the_state_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("CHECKPOINT_STORAGE", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert storage_of("stn-1") == str(tmp_path / "state/training/stn-1/checkpoints")


def test_what_is_written_there_is_found_and_removed(shared, alone):
    place = storage_of("stn-1")
    assert place.startswith(shared)
    check_reachable(place)
    check_writable(place)
    assert load_states(place) == ({}, [])  # the checks have left nothing behind
    filesystem, root = FileSystem.from_uri(place)
    filesystem.create_dir(f"{root}/ray")  # in S3 an object that stands for a folder, as Ray makes them
    CheckpointWriter(seed_storage(place, 0), keep=2).write(after(3), epochs_done=3)
    states, notes = load_states(place)
    assert states[0].epochs_done == 3 and notes == []
    remove(place)
    assert load_states(place) == ({}, [])


def test_the_newest_checkpoints_of_each_seed_stay(shared):
    """Of all starts; a writer deletes no checkpoint of another seed."""
    place = storage_of("stn-1")
    for start, keep in enumerate((1, 3)):
        writers = {seed: CheckpointWriter(seed_storage(place, seed), keep) for seed in (0, 7)}
        for epoch in range(1, 5):
            for seed, writer in writers.items():
                writer.write(after(10 * start + epoch + seed, seed), 10 * start + epoch + seed)
    found = checkpoints(place)
    for seed in (0, 7):
        of_seed = [checkpoint.folder for checkpoint in found if checkpoint.seed_folder == f"{place}/seed-{seed}"]
        kept = sorted(folder.rpartition("/")[2] for folder in of_seed)
        assert kept == [f"checkpoint_{epochs + seed:06d}" for epochs in (12, 13, 14)]
    assert len(found) == 6 and all(checkpoint.is_whole for checkpoint in found)
    states, _ = load_states(place)
    assert {seed: state.epochs_done for seed, state in states.items()} == {0: 14, 7: 21}


def test_a_host_that_does_not_see_it_is_named(shared, monkeypatch):
    monkeypatch.setattr(host_checks, "run_on_other_hosts", lambda *_: {"10.0.0.2": "", "10.0.0.3": "No such file"})
    with pytest.raises(UserError, match=r"CHECKPOINT_STORAGE: .*1 host\(s\) .* 10\.0\.0\.3 for one \(No such file\)"):
        check_reachable(storage_of("stn-1"))


def test_what_another_host_says(shared, alone, tmp_path):
    """``read_error`` as another host runs it: for the file, for another file, and for none."""
    place = storage_of("stn-1")
    check_reachable(place)
    filesystem, root = FileSystem.from_uri(place)
    for content, expected in ((b"seen", ""), (b"other", "its content differs")):
        with filesystem.open_output_stream(f"{root}/mark") as file:
            file.write(content)
        assert read_error(place, f"{root}/mark") == expected
    assert read_error(place, f"{root}/missing")


@pytest.mark.parametrize("wrong", ["bucket", "key"])
def test_a_refusal_of_s3_is_reported_in_one_line(s3, alone, monkeypatch, wrong):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CHECKPOINT_STORAGE", "s3://bucket/of/mine")
    if wrong == "bucket":
        monkeypatch.setenv("CHECKPOINT_STORAGE", "s3://missing-bucket/of/mine")
    else:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another one")
    with pytest.raises(ExternalError) as raised:
        check_reachable(storage_of("stn-1"))
    line = str(raised.value)
    assert line.startswith("CHECKPOINT_STORAGE: s3://") and "nothing can be written there" in line
    assert len(line.splitlines()) == 1 and "another one" not in line


def test_a_folder_that_cannot_be_made_is_reported_in_one_line(alone, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHECKPOINT_STORAGE", str(tmp_path / "file"))
    with pytest.raises(ExternalError, match=f"CHECKPOINT_STORAGE: {Path(tmp_path, 'file')}"):
        check_reachable(storage_of("stn-1"))
