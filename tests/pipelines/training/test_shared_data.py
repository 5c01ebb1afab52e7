"""How workers reach the prepared data: mapped files on one machine; on a cluster the object store or a folder."""

import shutil
from pathlib import Path

import pytest
import ray
import torch

from pipelines.outputs.labeled_files import LabeledWriter
from pipelines.outputs.prepared_data import load_training
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import write_json
from pipelines.training import shared_data
from pipelines.training.shared_data import SharedData, read_digest, share_data
from tests.pipelines.conftest import META

FOLDER = Path("data/prepared")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> list:
    """Prepared data in the current folder; the content of a pretended object store."""
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    for split, count in (("train", 6), ("validation", 3), ("test", 3)):
        images = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8)
        with LabeledWriter(FOLDER / f"{split}.safetensors", torch.arange(count), (1, 8, 8)) as file:
            file.write(images)
    shutil.copy(FOLDER / "validation.safetensors", FOLDER / "validation-undistorted.safetensors")
    write_json(FOLDER / "meta.json", META.to_json())
    content = []
    monkeypatch.setattr(ray, "put", lambda value: content.append(value) or len(content) - 1)
    monkeypatch.setattr(ray, "get", lambda reference: content[reference])
    return content


def assert_opens(shared: SharedData, final_fit: bool) -> None:
    found, expected = shared.open(), load_training(final_fit)
    assert len(found.training) == len(expected.training) == 1 + final_fit
    for split, other in zip(
        (*found.training, found.validation), (*expected.training, expected.validation), strict=True
    ):
        assert torch.equal(split.images, other.images) and torch.equal(split.labels, other.labels)


@pytest.mark.parametrize("final_fit", [False, True])
def test_on_one_machine_workers_map_the_files(monkeypatch, store, tmp_path, final_fit):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    shared = share_data(final_fit)
    monkeypatch.chdir("/")  # the folder of a worker
    assert not store and shared.folder == str(tmp_path / FOLDER)
    monkeypatch.chdir(tmp_path)
    assert_opens(shared, final_fit)


@pytest.mark.parametrize("final_fit", [False, True])
def test_small_data_are_sent_to_a_cluster(monkeypatch, store, final_fit):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    shared = share_data(final_fit)
    assert len(store) == 1
    assert_opens(shared, final_fit)


def test_large_data_are_read_from_a_folder_that_all_hosts_reach(monkeypatch, store):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(shared_data, "SENT_AT_MOST", 100)
    monkeypatch.setattr(shared_data, "run_on_other_hosts", lambda function, path: {"10.0.0.2": function(path)})
    shared = share_data()
    assert not store and not shared.arrays
    assert_opens(shared, final_fit=False)
    monkeypatch.setattr(shared_data, "run_on_other_hosts", lambda *_: {"10.0.0.2": META.digest, "10.0.0.3": ""})
    with pytest.raises(UserError, match=r"RAY_ADDRESS: .*10\.0\.0\.3 does not have them at .*data/prepared"):
        share_data()


def test_a_host_without_the_folder_has_no_digest(tmp_path):
    assert read_digest(str(tmp_path / "missing")) == ""
    assert read_digest(str(FOLDER)) == META.digest
