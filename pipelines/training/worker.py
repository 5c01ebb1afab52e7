"""The training function: trains all seeds of one variant, one after another, and stores a checkpoint every epoch.

A checkpoint holds the :class:`~pipelines.training.state.TrainingState`: results of the finished seeds, and network,
optimizer and schedule of the seed in progress. Random numbers are derived anew from (seed, epoch, rank) at the start of
each epoch, so that a training that was killed and resumed ends with the same weights as an undisturbed one.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from ray.train.torch import get_device

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.training.batches import make_training_data
from pipelines.training.checkpoints import STATE_FILE
from pipelines.training.mailbox import Mailbox
from pipelines.training.messages import EpochDone, NotFinite, SeedStarted, StepsDone, WorkersStarted
from pipelines.training.state import TrainingState, load_state, save_state
from pipelines.training.trainer import Trainer
from stn.classifiers import Network
from stn.settings import Recipe
from stn.training import NotFiniteError, choose_precision

REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class TrainingJob:
    """What each worker of a training receives.

    Args:
        make_network: builds the variant's network.
        recipe: how each seed is trained.
        seeds: the training seeds, in the order of training.
        meta: description of the prepared data.
        arrays: reference to the :class:`~pipelines.outputs.prepared_data.TrainingArrays` in Ray's object store.
        storage: folder of the checkpoints, an absolute path or a URI.
        threads: CPU threads of each worker.
    """

    make_network: "partial[Network]"
    recipe: Recipe
    seeds: list[int]
    meta: DatasetMeta
    arrays: ray.ObjectRef
    storage: str
    threads: int


def train_worker(config: dict[str, Any]) -> None:
    """Ray Train's training function. ``config`` holds a :class:`TrainingJob` and a :class:`Mailbox`."""
    TrainingWorker(config["job"], config["mailbox"]).run()


class TrainingWorker:
    """One of ``world_size`` workers, which all hold the same :class:`TrainingState`.

    Rank 0 alone loads and stores checkpoints and sends messages.
    """

    def __init__(self, job: TrainingJob, mailbox: Mailbox):
        self.job, self.mailbox = job, mailbox
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        torch.set_num_threads(job.threads)
        self.device = get_device()
        self.precision, self.precision_reason = choose_precision(job.recipe.precision, self.device)
        self.data = make_training_data(ray.get(job.arrays), job.meta, job.recipe, self.device)

    def run(self) -> None:
        """Train every seed that is not finished yet, from the latest checkpoint."""
        state, notes = load_state(self.job.storage) if self.rank == 0 else (None, [])
        state = broadcast(state) or TrainingState()
        if self.rank == 0:
            self._send_start(state, notes)
        for seed in self.job.seeds:
            if seed not in state.finished:
                try:
                    self._train_seed(seed, state)
                except NotFiniteError as error:
                    # Raised on every rank alike. A return, unlike an error, keeps Ray from trying the same again.
                    if self.rank == 0:
                        self.mailbox.send_and_wait(NotFinite(seed, str(error)))
                    return

    def _send_start(self, state: TrainingState, notes: list[str]) -> None:
        message = WorkersStarted(
            time=time.time(),
            device=str(self.device),
            precision=str(self.precision).removeprefix("torch."),
            precision_reason=self.precision_reason,
            workers=self.world_size,
            resumed_epochs=state.epochs_done,
            notes=notes,
        )
        self.mailbox.send(message)

    def _train_seed(self, seed: int, state: TrainingState) -> None:
        """Train one seed to its end and update ``state`` after each epoch."""
        trainer = Trainer(
            self.job.make_network, self.job.recipe, self.data, seed,
            precision=self.precision, rank=self.rank, world_size=self.world_size,
        )  # fmt: skip
        if state.trainer is not None:
            assert state.seed == seed, (state.seed, seed)
            trainer.load_state_dict(state.trainer)
        if self.rank == 0:
            self.mailbox.send(SeedStarted(seed))
        while trainer.done < trainer.epochs:
            metrics = trainer.train_epoch(self._step_reporter(seed, trainer) if self.rank == 0 else None)
            state.update(seed, trainer)
            self._store(state)
            if self.rank == 0:
                self.mailbox.send(EpochDone(time.time(), seed, metrics))

    def _store(self, state: TrainingState) -> None:
        """Pass a checkpoint to Ray. Every rank must report, since ``report`` waits for all of them."""
        if self.rank != 0:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as folder:
            save_state(state, Path(folder) / STATE_FILE)
            # Returns once the checkpoint is in the storage.
            ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))

    def _step_reporter(self, seed: int, trainer: Trainer) -> Callable[[int], None]:
        """A callback for :meth:`Trainer.train_epoch` that sends :class:`StepsDone` about once a second."""
        epoch, started = trainer.done, time.monotonic()
        reported = started

        def report(step: int) -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported >= REPORT_EVERY_S:
                reported = now
                images_per_second = step * self.job.recipe.batch_size / (now - started)
                self.mailbox.send(StepsDone(seed, epoch + step / trainer.steps, images_per_second))

        return report


def broadcast(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
