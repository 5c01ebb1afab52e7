"""train: kills at any moment, any number of workers, what is recorded, and what is refused."""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Project

SMALL = (
    "data.dataset=digits",
    "data.distortion.rotation=60",
    "data.distortion.scale=[0.5,1.0]",
    "data.distortion.shift=0.2",
    "train.precision=fp32",  # what is promised bit for bit is promised for fp32 on the CPU
    "train.dropout=0.1",  # so that random numbers of the network itself must be right after a kill, too
    "train.threads=1",
)
# Is added to the code of a training. It kills the process while the third checkpoint is written: half of the file
# reaches the storage.
DIE_WHILE_WRITING = """

import os, pathlib, signal
replace, counter, died = pathlib.Path.replace, [0], pathlib.Path(os.environ["DIED"])
def replace_by_half(self, target):
    if pathlib.Path(target).name == "state.pt":
        counter[0] += 1
        if counter[0] == 3 and not died.exists():
            died.touch()
            whole = self.read_bytes()
            pathlib.Path(target).write_bytes(whole[: len(whole) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = replace_by_half
"""


# Replaces the check of the losses by a request for a pebibyte of memory.
ASK_FOR_TOO_MUCH = """

def check_finite(losses):
    torch.empty(2**50, dtype=torch.uint8)
"""


EPOCHS = 12  # of trainings that are killed


@pytest.fixture(scope="module")
def prepared(copy_of_project) -> Project:
    """A copy of the project with SMALL and its prepared data, to be copied."""
    copy_of_project.set(*SMALL)
    copy_of_project.stage("prepare")
    return copy_of_project


@pytest.fixture
def make_small(prepared, tmp_path) -> Callable[..., Project]:
    """Makes copies of the prepared project, with further settings of ``train``."""

    def make(*assignments: str) -> Project:
        project = prepared.copied(tmp_path / f"project-{len(list(tmp_path.iterdir()))}")
        project.set(*assignments)
        return project

    return make


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory) -> Project:
    """A finished training of two seeds by one worker."""
    project = prepared.copied(tmp_path_factory.mktemp("undisturbed") / "project")
    project.set(f"train.epochs={EPOCHS}", "train.seeds=[0,1]", "train.workers=1")
    train(project)
    return project


def train(project, **options):
    return project.stage("train", "--variant", "stn", **options)


def weights(project) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of each file: ``<seed>`` is a network, ``<seed>.theta_history`` the θ of some images after each epoch."""
    return {file.stem: load_file(file) for file in sorted(project.folder.glob("models/stn/*.safetensors"))}


def assert_equal_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for seed, tensors in first.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second[seed][name]), f"seed {seed}: {name} differs"


def runs_of(project) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/state/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [(run, client) for run in client.search_runs(experiments)]


def assert_each_epoch_once(project, seeds: int, epochs: int) -> None:
    runs = runs_of(project)
    assert len(runs) == seeds
    for run, client in runs:
        assert run.info.status == "FINISHED"
        for metric in ("train_loss", "validation_accuracy", "theta_scale"):
            steps = [entry.step for entry in client.get_metric_history(run.info.run_id, metric)]
            assert sorted(steps) == list(range(1, epochs + 1)), (metric, steps)


def start(project) -> subprocess.Popen:
    return project.start("python", "-m", "pipelines.train", "--variant", "stn", warm=True)


def worker_at_work(driver: subprocess.Popen, project) -> psutil.Process:
    """Wait for a training worker; the driver must not end before there is one."""
    while not (workers := project.processes("TrainWorker")):
        assert driver.poll() is None, f"over before it could be killed: {driver.communicate()[0]}"
        time.sleep(0.05)
    return workers[0]


def in_training(project) -> int | None:
    """The process that trains, in which the stage runs; None if there is none."""
    for marker in project.folder.glob("state/training/*/running.json"):
        with suppress(FileNotFoundError):  # the process has just taken the marker of the earlier start
            process = json.loads(marker.read_text())["pid"]
            if psutil.pid_exists(process):
                return process
    return None


def error_line(output: str) -> str:
    """The one line with the reason why a stage ended."""
    assert "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


def checkpoints(project) -> int:
    return len(list(project.folder.glob("state/training/*/checkpoints/seed-*/*/checkpoint_*/state.pt")))


def start_and_kill(project, name: str, when) -> subprocess.Popen:
    """Start a training on two Ray workers and, once ``when()`` is true, kill its process ``name``."""
    driver = start(project)
    while not when():
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    (process,) = project.processes(name)
    process.kill()
    return driver


def die_at_the_third_checkpoint(project) -> Path:
    """Let the first process that writes a third checkpoint die in the middle of it; returns a file that exists then."""
    code = project.folder / "pipelines/training/checkpoints.py"
    code.write_text(code.read_text() + DIE_WHILE_WRITING)
    project.env |= {"DIED": str(project.folder / "died")}
    return project.folder / "died"


def assert_went_on(last: str) -> None:
    # A traceback, too, would quote the words: the number is what must be there.
    assert re.search(rf"resumed after [1-9]\d* of {2 * EPOCHS} epochs", last), last
    assert "Traceback" not in last, last


@pytest.mark.slow
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(make_small, undisturbed):
    """It is killed with -9 at three random moments and while it writes a checkpoint."""
    dice = random.Random(0)
    disturbed = make_small(f"train.epochs={EPOCHS}", "train.seeds=[0,1]", "train.workers=1")
    died = die_at_the_third_checkpoint(disturbed)
    for _ in range(3):
        driver, process = start(disturbed), None
        while driver.poll() is None and not (process := in_training(disturbed)):
            time.sleep(0.05)
        time.sleep(dice.uniform(0.1, 0.8))
        if process:
            with suppress(ProcessLookupError):  # it has died of its checkpoint
                os.kill(process, signal.SIGKILL)
        driver.wait()
    if not died.exists():  # killed before its third checkpoint each time
        last = start(disturbed)
        assert last.wait() == -signal.SIGKILL, last.communicate()[0]
    last = train(disturbed).stdout
    assert died.exists(), "it did not die while writing a checkpoint"
    assert_went_on(last)
    assert re.search(r"the last start \(process \d+\) ended without a message: it was killed", last)
    assert_equal_weights(weights(undisturbed), weights(disturbed))
    assert_each_epoch_once(disturbed, seeds=2, epochs=EPOCHS)


@pytest.mark.slow
def test_a_training_on_ray_that_is_killed_ends_with_the_weights_of_an_undisturbed_one(make_small):
    """A worker dies while it writes a checkpoint, then the driver is killed, then a worker of the next start."""
    dice = random.Random(0)
    settings = (f"train.epochs={EPOCHS}", "train.seeds=[0,1]", "train.workers=2")
    undisturbed, disturbed = make_small(*settings), make_small(*settings)
    train(undisturbed)
    died = die_at_the_third_checkpoint(disturbed)
    driver = start(disturbed)
    while not died.exists():
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    time.sleep(dice.uniform(0.5, 2))
    driver.kill()
    assert driver.wait() == -signal.SIGKILL, "over before it could be killed"
    end = time.monotonic() + 60
    while left := disturbed.processes("TrainWorker"):  # the processes of Ray end with the driver
        assert time.monotonic() < end, left
        time.sleep(0.05)

    driver = start(disturbed)
    worker_at_work(driver, disturbed)
    time.sleep(dice.uniform(0.5, 2))
    worker_at_work(driver, disturbed).kill()
    last = driver.communicate()[0]
    assert driver.returncode == 0, last
    assert_went_on(last)
    assert_equal_weights(weights(undisturbed), weights(disturbed))
    assert_each_epoch_once(disturbed, seeds=2, epochs=EPOCHS)


@pytest.mark.slow
def test_workers_with_seeds_of_their_own_survive_the_loss_of_one(make_small, undisturbed):
    """Two of Ray's workers train two seeds side by side. One is killed; the weights are those of a single worker."""
    each = make_small(f"train.epochs={EPOCHS}", "train.seeds=[0,1]", "train.workers=per_seed")
    driver = start(each)
    while checkpoints(each) < 2:
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    worker_at_work(driver, each).kill()
    printed = driver.communicate()[0]
    assert driver.returncode == 0 and "Traceback" not in printed, printed
    assert "2 workers, 1 CPU thread(s) each, each trains seeds of its own" in printed
    assert_went_on(printed)
    assert_equal_weights(weights(undisturbed), weights(each))
    assert_each_epoch_once(each, seeds=2, epochs=EPOCHS)
    trained = json.loads((each.folder / "models/stn/training.json").read_text())
    assert trained["workers"] == 1, "no batch was shared"


@pytest.mark.slow
def test_without_its_controller_a_training_ends_in_a_line_and_goes_on_from_s3(make_small, s3):
    project = make_small(f"train.epochs={EPOCHS}", "train.seeds=[0]", "train.workers=2")
    project.env |= s3.env | {"CHECKPOINT_STORAGE": "s3://bucket/of-a-lost-controller"}

    def kept() -> list[str]:
        objects = s3.client.list_objects_v2(Bucket="bucket", Prefix="of-a-lost-controller").get("Contents", [])
        return [entry["Key"] for entry in objects if entry["Key"].endswith("state.pt")]

    driver = start_and_kill(project, "TrainController", when=kept)
    error = error_line(driver.communicate()[0])
    assert driver.returncode == 1
    assert "Ray lost a process that runs the training" in error and "the next start continues" in error
    assert kept() and checkpoints(project) == 0
    assert re.search(rf"resumed after [1-9]\d* of {EPOCHS} epochs", train(project).stdout)
    assert_each_epoch_once(project, seeds=1, epochs=EPOCHS)
    assert not kept(), "finished, and checkpoints left lying"


@pytest.mark.slow
def test_without_its_mailbox_a_training_goes_on_and_all_epochs_are_logged_at_the_end(make_small):
    project = make_small(f"train.epochs={EPOCHS}", "train.seeds=[0]", "train.workers=2")
    driver = start_and_kill(project, "MessageQueue", when=lambda: checkpoints(project))
    output = driver.communicate()[0]
    assert driver.returncode == 0 and "Traceback" not in output, output
    assert "will be logged at the end" in output
    assert_each_epoch_once(project, seeds=1, epochs=EPOCHS)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_while_training(make_small, small_disk, workers):
    """Database, artifacts and checkpoints are on it. With room again, training continues from the last checkpoint."""
    settings = (f"train.epochs={EPOCHS}", "train.seeds=[0]", "train.max_failures=0", f"train.workers={workers}")
    project = make_small(*settings)
    disk = small_disk(project.folder / "state")
    driver = start(project)
    while checkpoints(project) == 0:
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    disk.fill()
    output = driver.communicate()[0]
    assert driver.returncode == 1, output
    error = error_line(output)
    assert "No space left on device" in error and f"{disk.folder}/training" in error and "next start continues" in error
    disk.clear()
    assert re.search(rf"resumed after [1-9]\d* of {EPOCHS} epochs", train(project).stdout)
    assert_each_epoch_once(project, seeds=1, epochs=EPOCHS)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_runs_out_names_the_settings_to_lower(make_small, workers):
    project = make_small("train.epochs=2", "train.max_failures=1", f"train.workers={workers}")
    code = project.folder / "stn/training.py"
    code.write_text(code.read_text() + ASK_FOR_TOO_MUCH)
    done = train(project, check=False)
    assert done.returncode == 1
    error = error_line(done.stdout)
    assert "can't allocate memory" in error and "a lower train.batch_size" in error
    assert ("more than train.max_failures=1 times" in error) == (workers == 2)
    (run, _), *others = runs_of(project)
    assert run.info.status == "FAILED" and not others


@pytest.mark.slow
def test_the_second_of_two_trainings_of_one_key_waits_and_takes_the_result_over(make_small):
    project = make_small("train.epochs=3")
    drivers = [start(project) for _ in range(2)]
    outputs = [driver.communicate()[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    waited, worked = sorted(outputs, key=lambda output: "is copied" not in output)
    assert "is working on the same task" in waited and "epochs on" not in waited
    assert "epochs on" in worked
    assert_each_epoch_once(project, seeds=1, epochs=3)


@pytest.mark.slow
def test_two_workers_train_what_one_trains(make_small):
    """Both see the same augmented images in the same batches. Only the order of additions differs.

    With SGD and this learning rate, the order changes weights by at most about 3e-5 in 60 steps. With ten times the
    learning rate it is 2e-2 (6e-16 in float64), and with Muon 3e-3, because orthogonal steps enlarge the smallest part
    of a gradient. Such values would hide a real difference.
    """
    results = []
    for workers in (1, 2):
        project = make_small(
            "train.dropout=0.0",
            "train.optimizer=sgd",
            "train.lr=0.01",
            "train.epochs=3",
            f"train.workers={workers}",
        )
        printed = train(project).stdout
        assert f"{workers} worker" in printed
        history = json.loads((project.folder / "models/stn/training.json").read_text())["runs"]["0"]["history"]
        results.append((weights(project), history))
    (one, history_one), (two, history_two) = results
    assert one.keys() == {"0", "0.theta_history"}
    assert one["0.theta_history"]["theta"].shape == (3, 10, 6)
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
    for first, second in zip(history_one, history_two, strict=True):
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-3)
        assert second["theta_scale"] == pytest.approx(first["theta_scale"], rel=1e-3)
        watched = [name for name in first if name.startswith(("theta_undone", "theta_spread"))]
        assert len(watched) == 4
        assert [second[name] for name in watched] == pytest.approx([first[name] for name in watched], abs=1e-4)


@pytest.mark.slow
def test_a_finished_training_is_copied_unless_it_is_forced(make_small):
    project = make_small("train.epochs=1")
    assert "worker" in train(project).stdout
    first = weights(project)
    project.run("rm", "-r", "models")
    again = train(project).stdout
    assert "is copied" in again and "worker" not in again
    assert_equal_weights(first, weights(project))
    assert len(runs_of(project)) == 1

    # It is copied as long as it is there, whether DVC has recorded it or not, unless it is to be trained again.
    project.run("dvc", "commit", "--force", "train@stn")
    assert "is copied" in train(project).stdout
    assert "worker" in train(project, env={"FORCE": "1"}).stdout
    assert_equal_weights(first, weights(project))
    assert len(runs_of(project)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_trouble_is_printed_in_its_epoch_and_is_a_tag_of_the_run(make_small, workers):
    project = make_small("train.epochs=4", f"train.workers={workers}")
    variant = project.folder / "variants/stn.yaml"
    variant.write_text(re.sub(r"^localization_lr: .*$", "localization_lr: 10", variant.read_text(), flags=re.MULTILINE))
    printed = train(project).stdout
    lines = re.findall(r"^stn: seed 0, epoch (\d): θ looks outside the image for more than half", printed, re.MULTILINE)
    history = json.loads((project.folder / "models/stn/training.json").read_text())["runs"]["0"]["history"]
    (first, *_) = [int(entry["epoch"]) for entry in history if entry["theta_outside"] > 0.5]
    assert lines == [str(first)], printed
    ((run, _),) = runs_of(project)
    assert f"outside from epoch {first}" in run.data.tags["theta_trouble"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_that_is_not_finite_stops_training_and_says_where(make_small, workers):
    project = make_small(
        f"train.workers={workers}",
        "train.epochs=3",
        "train.lr=10.0",
        "train.weight_decay=1.0",
        "train.momentum=0.0",
    )
    done = train(project, check=False)
    assert done.returncode == 1, done.stdout
    error = next(line for line in done.stdout.splitlines() if line.startswith("error:"))
    assert "seed 0" in error and "at step" in error and "lower train.lr" in error.lower()
    assert "Traceback" not in done.stdout
    (run, _), *others = runs_of(project)
    assert not others
    assert run.info.status == "FAILED"


@pytest.mark.slow
def test_more_workers_than_the_cluster_has_are_refused(make_small):
    project = make_small("train.workers=64")
    done = train(project, check=False)
    assert done.returncode == 2
    assert "train.workers: 64 given" in done.stdout and "Traceback" not in done.stdout


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused_before_ray_starts(project):
    project.set(*SMALL, "data.size=12")
    done = project.stage("prepare", check=False)
    assert done.returncode == 2
    assert "variants/plain.yaml" in done.stdout and "12×12" in done.stdout and "Traceback" not in done.stdout
    project.set("data.distortion.protocol=TC")  # its canvas is large enough
    project.stage("prepare")
    project.set("data.distortion.protocol=none")

    project.set("data.size=28")
    project.stage("prepare")
    seed = project.folder / "variants/stn.yaml"
    before = seed.read_text()
    seed.write_text(before.replace("[7, 5]", "[15, 15]"))  # after prepare has looked
    done = train(project, check=False)
    assert done.returncode == 2
    assert "variants/stn.yaml" in done.stdout and "28×28" in done.stdout and "Traceback" not in done.stdout

    seed.write_text(before)
    project.set("train.batch_size=100000")
    done = train(project, check=False)
    assert done.returncode == 2
    assert "train.batch_size: 100000 given" in done.stdout
    assert not (project.folder / "state" / "training").exists() or not checkpoints(project)
