"""A cluster of several hosts: code and data are sent, workers are spread, and training survives the loss of a host.

The hosts are network namespaces, see :mod:`tools.hosts`. They would share the folders of projects, so these are hidden
from all hosts except the driver's. All tests use one cluster.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Project, copy_project
from tests.pipelines.training.test_run import assert_each_epoch_once
from tests.warm_python import folder_of_warm_python
from tools.hosts import Cluster, Host, hosts, why_not

pytestmark = pytest.mark.slow
EPOCHS = 12
SMALL = (
    "data.dataset=digits", f"train.epochs={EPOCHS}", "train.seeds=[0]", "train.workers={min: 1, max: 2}",
    "train.precision=fp32", "train.optimizer=sgd", "train.lr=0.01",
)  # fmt: skip


class Running(NamedTuple):
    """A cluster, the folder of all projects, and the project that is copied there for each test."""

    cluster: Cluster
    folder: Path
    prepared: Project


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    if reason := why_not():
        pytest.skip(reason)
    projects = tmp_path_factory.mktemp("projects")
    prepared = copy_project(projects / "prepared")
    prepared.set(*SMALL)
    prepared.stage("prepare")
    # Pytest's folder is too long: the paths of Ray's sockets must be shorter than 108 bytes.
    with tempfile.TemporaryDirectory() as folder, hosts(3) as (head, *workers):
        for worker in workers:
            worker.hidden.append(projects)
        warm = folder_of_warm_python()
        python = str(warm / "python") if warm else sys.executable
        yield Running(Cluster(head, workers, 1, prepared.env, Path(folder), python=python), projects, prepared)


@pytest.fixture
def make_copy(running) -> Callable[[str], Project]:
    """Copies the prepared project to a folder that other hosts do not see."""

    def copy(name: str) -> Project:
        return running.prepared.copied(running.folder / name)

    return copy


@pytest.fixture
def project(make_copy, request) -> Project:
    return make_copy(request.node.name)


@pytest.fixture
def cluster(running, tmp_path) -> Cluster:
    """The cluster, with an empty storage of checkpoints. A host that an earlier test cut off joins again."""
    cluster = running.cluster
    for worker in cluster.workers:
        if worker.is_cut_off():
            replace(cluster, worker)
    cluster.env["CHECKPOINT_STORAGE"] = str(tmp_path)
    return cluster


def replace(cluster: Cluster, lost: Host) -> None:
    """Start Ray again on a host that was cut off."""
    lost.kill_all()
    lost.reconnect()
    cluster.join(lost)


def once_two_epochs_are_saved(cluster: Cluster, driver: subprocess.Popen, do: Callable[[], None]) -> None:
    """Call ``do`` once the storage has had two checkpoints; on a fast machine the driver reports epochs too late."""

    def watch() -> None:
        saved: set[str] = set()
        while len(saved) < 2:
            if driver.poll() is not None:
                return
            time.sleep(0.05)
            saved |= {path.parent.name for path in Path(cluster.env["CHECKPOINT_STORAGE"]).rglob("state.pt")}
        do()

    threading.Thread(target=watch, daemon=True).start()


def test_a_fixed_number_of_workers_waits_for_a_replacement(cluster, project):
    project.set("train.workers=2")
    driver = cluster.drive(project.folder, "-m", "pipelines.train", "--variant", "stn")
    lines, lost = [], cluster.workers[1]
    once_two_epochs_are_saved(cluster, driver, lost.cut_off)
    assert driver.stdout
    for line in driver.stdout:
        lines.append(line)
        if "is lost" in line:
            replace(cluster, lost)
    output = "".join(lines)
    assert driver.wait() == 0, output
    assert "training waits for a replacement: it needs 2 worker(s), and there is room for 1" in output
    assert f"host {lost.address} has joined; training continues: there is room for 2 of at most 2" in output
    assert re.search(rf"resumed after [1-9]\d* of {EPOCHS} epochs", output) and "Traceback" not in output
    assert_each_epoch_once(project, seeds=1, epochs=EPOCHS)


def test_without_shared_checkpoints_a_cluster_tunes_but_does_not_train(cluster, project):
    del cluster.env["CHECKPOINT_STORAGE"]
    driver = cluster.drive(project.folder, "-m", "pipelines.train", "--variant", "stn")
    output = driver.communicate()[0]
    assert driver.returncode == 2, output
    assert "CHECKPOINT_STORAGE: not set, but 2 host(s) of the cluster cannot read" in output
    assert "Traceback" not in output

    project.set("tune.trials=2", "tune.epochs=2", "tune.finalists=1", "train.epochs=2")
    driver = cluster.drive(project.folder, "-m", "pipelines.tune")
    output = driver.communicate()[0]
    assert driver.returncode == 0, output
    assert "2 at once" in output
    assert json.loads((project.folder / "metrics/tune.json").read_text())["failed"] == 0


def test_training_goes_on_when_one_of_two_hosts_is_cut_off(cluster, project, make_copy):
    sent, before = [], [worker.bytes_sent() for worker in cluster.workers]

    def cut_off() -> None:
        sent.extend(worker.bytes_sent() - b for worker, b in zip(cluster.workers, before, strict=True))
        cluster.workers[1].cut_off()

    driver = cluster.drive(project.folder, "-m", "pipelines.train", "--variant", "stn")
    once_two_epochs_are_saved(cluster, driver, cut_off)
    output = driver.communicate()[0]
    assert driver.returncode == 0, output
    assert sent and "on 2 workers (1 to 2)" in output, output
    # More than twice the images, which each host receives once, and about as much from both: gradients are exchanged.
    assert min(sent) > 1e6 and max(sent) < 2 * min(sent)
    assert f"host {cluster.workers[1].address} is lost; training continues: there is room for 1" in output
    assert "1 worker(s) now, 2 before" in output
    assert re.search(rf"resumed after [1-9]\d* of {EPOCHS} epochs", output)
    assert "Traceback" not in output
    assert_each_epoch_once(project, seeds=1, epochs=EPOCHS)
    record = json.loads((project.folder / "models/stn/training.json").read_text())
    assert record["workers"] == 1
    assert not list(Path(cluster.env["CHECKPOINT_STORAGE"]).rglob("state.pt")), "finished, and checkpoints left lying"

    # The same batches give the same weights as one worker alone on one host.
    alone = make_copy("alone")
    alone.set("train.workers=1", "train.threads=1")
    alone.stage("train", "--variant", "stn")
    histories = [
        json.loads((project.folder / "models/stn/training.json").read_text())["runs"]["0"]["history"]
        for project in (project, alone)
    ]
    for mine, theirs in zip(*histories, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=2e-2)
    weights = [load_file(project.folder / "models/stn/0.safetensors") for project in (project, alone)]
    # Rounding differences grow to at most 0.002; a different batch would move weights by tenths.
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-2)
