"""The training function: which seeds a worker trains, when it stores checkpoints, and what it reports."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.outputs.prepared_data import DatasetMeta, Labeled, TrainingSplits
from pipelines.training import seed_training
from pipelines.training.checkpoints import CheckpointWriter
from pipelines.training.messages import EpochDone, Message, NotFinite, SeedStarted, WorkersStarted
from pipelines.training.precision import Precision
from pipelines.training.seed_training import reason_for_eager_steps
from pipelines.training.state import load_states
from pipelines.training.trainer import Trainer
from pipelines.training.worker import TrainingJob, TrainingWorker
from stn.classifiers import build_network
from stn.settings import NetworkSettings, Recipe
from stn.training import NotFiniteError

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 3


@pytest.mark.parametrize(
    ("device", "capture", "captured", "reason"),
    [
        ("cuda", "auto", None, "ema"), ("cuda", "auto", object(), None), ("cuda", "off", None, None),
        ("cpu", "auto", None, None),
    ],
)  # fmt: skip
def test_a_gpu_says_why_it_trains_step_by_step(device, capture, captured, reason):
    trainer: Any = SimpleNamespace(
        training=SimpleNamespace(device=torch.device(device)), recipe=Recipe(1, 4, capture=capture), captured=captured,
        reason_against_capture="ema",
    )  # fmt: skip
    assert reason_for_eager_steps(trainer) == reason


class Messages(list[Message]):
    """Keeps the messages."""

    def send(self, message: Message) -> None:
        self.append(message)

    send_and_wait = send


def start(storage: str, seeds: list[int], rank: int = 0, world_size: int = 1, **settings) -> Messages:
    """Run a worker on twelve random images, to the end of its seeds."""
    images = torch.randint(256, (12, 1, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Labeled(images, torch.arange(12) % 3)
    meta = DatasetMeta("mine", "", ["a", "b", "c"], (1, 20, 20), {}, [0.5], [0.2], {"rotation": 30.0}, {}, {}, "d")
    job = TrainingJob(
        lambda: build_network(NetworkSettings((1, 20, 20), 3)),  # pyright: ignore[reportArgumentType]
        Recipe(EPOCHS, batch_size=4, lr=0.01), seeds, meta, storage, keep=2, threads=1,
        precision=Precision("float32", "set by hand"), **settings,
    )  # fmt: skip
    messages, device = Messages(), torch.device("cpu")
    TrainingWorker(
        job, TrainingSplits([split], split), device, messages, rank=rank, world_size=world_size
    ).run()  # fmt: skip
    return messages


def assert_equal_results(first: str, second: str, seeds: list[int]) -> None:
    """Both folders of checkpoints hold the results of these seeds, with the same weights."""
    results = [load_states(storage)[0] for storage in (first, second)]
    assert results[0].keys() == results[1].keys() == set(seeds)
    for seed in seeds:
        one, other = (states[seed].finished for states in results)
        assert one is not None and other is not None
        for name, tensor in one.weights.items():
            assert torch.equal(tensor, other.weights[name]), (seed, name)


def test_workers_with_seeds_of_their_own_train_what_one_worker_trains(tmp_path):
    seeds = [4, 0, 9]
    alone = start(f"{tmp_path}/alone", seeds)
    first = start(f"{tmp_path}/each", seeds, 0, 2, per_seed=True)
    assert [message.seed for message in first if isinstance(message, SeedStarted)] == [4, 9]
    (started,) = [message for message in first if isinstance(message, WorkersStarted)]
    assert started.workers == 1, "no batch is shared"
    second = start(f"{tmp_path}/each", seeds, 0, 1, per_seed=True)  # a later start, with fewer workers
    (started,) = [message for message in second if isinstance(message, WorkersStarted)]
    assert started.resumed == {4: EPOCHS, 9: EPOCHS}
    assert [message.seed for message in second if isinstance(message, SeedStarted)] == [0]
    assert_equal_results(f"{tmp_path}/alone", f"{tmp_path}/each", seeds)
    assert len([message for message in alone if isinstance(message, EpochDone)]) == len(seeds) * EPOCHS


def test_seeds_at_once_take_turns_and_train_what_each_trains_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(seed_training, "CHECKPOINT_EVERY_S", 0.0)
    seeds = [4, 0, 9]
    start(f"{tmp_path}/alone", seeds)
    messages = start(f"{tmp_path}/at-once", seeds, seeds_at_once=2)
    order = [message.seed for message in messages if isinstance(message, EpochDone)]
    assert order == [4, 0] * EPOCHS + [9] * EPOCHS
    assert_equal_results(f"{tmp_path}/alone", f"{tmp_path}/at-once", seeds)


def test_seeds_that_are_not_finished_are_shared_among_the_workers(tmp_path):
    start(str(tmp_path), [4, 9])
    messages = start(str(tmp_path), [4, 0, 9, 2], 0, 2, per_seed=True)
    started = [message.seed for message in messages if isinstance(message, SeedStarted)]
    assert started == [0], "by its place among all seeds, the first worker would have nothing to do"


def test_a_seed_whose_loss_is_not_finite_leaves_the_others_alone(tmp_path, monkeypatch):
    train_epoch = Trainer.train_epoch

    def fail_for_seed_0(trainer: Trainer, *arguments):
        if trainer.seed == 0:
            raise NotFiniteError("the loss became nan at step 1 of 3")
        return train_epoch(trainer, *arguments)

    monkeypatch.setattr(Trainer, "train_epoch", fail_for_seed_0)
    for per_seed, at_once, finished in ((True, 1, {4, 9}), (False, 1, {4}), (True, 2, {4, 9}), (False, 2, set())):
        storage = f"{tmp_path}/{per_seed}-{at_once}"
        messages = start(storage, [4, 0, 9], per_seed=per_seed, seeds_at_once=at_once)
        (failed,) = [message for message in messages if isinstance(message, NotFinite)]
        assert failed == NotFinite(0, "the loss became nan at step 1 of 3", others_go_on=per_seed)
        states, _ = load_states(storage)
        assert {seed for seed in states if states[seed].finished is not None} == finished


def test_an_epoch_is_reported_once_it_is_stored(tmp_path, monkeypatch):
    """A kill before that repeats it, and MLflow would keep the metrics of the first time."""
    stored, write = [], CheckpointWriter.write

    def keep(self, content: bytes, epochs_done: int) -> None:
        write(self, content, epochs_done)
        stored.append(epochs_done)

    class Watched(Messages):
        def send(self, message: Message) -> None:
            if isinstance(message, EpochDone):
                assert message.metrics["epoch"] <= stored[-1]
            super().send(message)

    monkeypatch.setattr(CheckpointWriter, "write", keep)
    monkeypatch.setattr(seed_training, "CHECKPOINT_EVERY_S", 1e9)
    monkeypatch.setitem(globals(), "Messages", Watched)
    assert len([message for message in start(str(tmp_path), [0]) if isinstance(message, EpochDone)]) == EPOCHS
    assert stored == [1, EPOCHS]


@pytest.mark.slow
def test_what_the_processes_of_ray_import():
    """Each of Ray's processes would spend seconds on packages that it does not use."""
    for module, unused in (
        ("ray_worker", ("mlflow", "optuna", "matplotlib")),
        ("message_queue", ("torch", "pydantic")),
    ):
        code = f"import sys, pipelines.training.{module}; sys.exit(any(name in sys.modules for name in {unused}))"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.0, [1, 2, 3, 1, 2, 3]), (1e9, [1, 3, 1, 3])], ids=["long epochs", "short epochs"]
)
def test_short_epochs_share_a_checkpoint(tmp_path, monkeypatch, seconds, written):
    """The first of a start and the last of a seed are always written, and every epoch is reported."""
    epochs, write = [], CheckpointWriter.write

    def keep(self, content: bytes, epochs_done: int) -> None:
        epochs.append(epochs_done)
        write(self, content, epochs_done)

    monkeypatch.setattr(CheckpointWriter, "write", keep)
    monkeypatch.setattr(seed_training, "CHECKPOINT_EVERY_S", seconds)
    messages = start(str(tmp_path), [0, 1])
    assert epochs == written
    assert [m.metrics["epoch"] for m in messages if isinstance(m, EpochDone)] == [1, 2, 3, 1, 2, 3]
    states, _ = load_states(str(tmp_path))
    assert all(state.finished is not None for state in states.values())
