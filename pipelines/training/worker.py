"""The training function: trains all seeds of one variant, one after another, and stores a checkpoint every epoch.

A checkpoint holds the :class:`~pipelines.training.state.TrainingState`: results of the finished seeds, and network,
optimizer and schedule of the seed in progress. Random numbers are derived from (seed, epoch, rank) at the start of
each epoch, so that a training that was killed and resumed ends with the same weights as an undisturbed one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from pipelines.outputs.prepared_data import DatasetMeta, TrainingSplits
from pipelines.training.batches import make_training_data
from pipelines.training.checkpoints import CheckpointWriter
from pipelines.training.messages import EpochDone, NotFinite, SeedStarted, Sender, StepByStep, StepsDone, WorkersStarted
from pipelines.training.precision import Precision, measure_precision
from pipelines.training.state import TrainingState, load_state, serialize
from pipelines.training.trainer import Trainer
from stn.classifiers import Network
from stn.settings import Recipe
from stn.theta_trouble import first_epochs
from stn.training import NotFiniteError

REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class TrainingJob:
    """What each worker of a training receives.

    Args:
        make_network: builds the variant's network.
        recipe: how each seed is trained.
        seeds: the training seeds, in the order of training.
        meta: description of the prepared data.
        storage: folder of the checkpoints, an absolute path or a URI.
        keep: number of checkpoints to keep, the newest.
        threads: CPU threads of each worker.
        residency: the setting ``train.residency``.
        precision: the precision that was chosen before. None: rank 0 chooses it.
    """

    make_network: "partial[Network]"
    recipe: Recipe
    seeds: list[int]
    meta: DatasetMeta
    storage: str
    keep: int
    threads: int
    residency: str = "auto"
    precision: Precision | None = None


class TrainingWorker:
    """One of ``world_size`` workers, which all hold the same :class:`TrainingState`.

    Rank 0 alone loads and stores checkpoints and sends messages.

    Args:
        job: the training.
        splits: its images and labels.
        device: where the network is trained.
        sender: takes the messages of rank 0.
        sharing: number of workers that share the memory of the device.
    """

    def __init__(
        self,
        job: TrainingJob,
        splits: TrainingSplits,
        device: torch.device,
        sender: Sender,
        *,
        rank: int = 0,
        world_size: int = 1,
        sharing: int = 1,
    ):
        self.job, self.device, self.sender = job, device, sender
        self.rank, self.world_size = rank, world_size
        torch.set_num_threads(job.threads)
        self.data = make_training_data(
            splits, job.meta, job.recipe, device, residency=job.residency, sharing=sharing
        )  # fmt: skip
        self.checkpoints = CheckpointWriter(job.storage, job.keep)

    def run(self) -> None:
        """Train every seed that is not finished yet, from the latest checkpoint."""
        state, notes = load_state(self.job.storage) if self.rank == 0 else (None, [])
        state = state or TrainingState()
        if self.rank == 0:
            state.precision = state.precision or self._choose_precision()
            self._send_start(state, state.precision, notes)
        state = broadcast(state)  # the ranks may be on different machines
        for seed in self.job.seeds:
            if seed not in state.finished:
                try:
                    self._train_seed(seed, state)
                except NotFiniteError as error:
                    # All ranks raise it. The worker returns, because Ray would repeat the training after an error.
                    if self.rank == 0:
                        self.sender.send_and_wait(NotFinite(seed, str(error)))
                    return

    def _choose_precision(self) -> Precision:
        job = self.job
        return job.precision or measure_precision(job.recipe, job.make_network, self.data, self.world_size)

    def _send_start(self, state: TrainingState, precision: Precision, notes: list[str]) -> None:
        message = WorkersStarted(
            time=time.time(),
            device=str(self.device),
            precision=precision,
            workers=self.world_size,
            resumed_epochs=state.epochs_done,
            notes=notes,
        )
        self.sender.send(message)

    def _train_seed(self, seed: int, state: TrainingState) -> None:
        """Train one seed to its end and update ``state`` after each epoch."""
        assert state.precision is not None
        trainer = Trainer(
            self.job.make_network, self.job.recipe, self.data, seed,
            precision=state.precision.torch_dtype, rank=self.rank, world_size=self.world_size,
        )  # fmt: skip
        if state.trainer is not None:
            assert state.seed == seed, (state.seed, seed)
            trainer.load_state_dict(state.trainer)
        if self.rank == 0:
            self.sender.send(SeedStarted(seed))
        while trainer.done < trainer.epochs:
            metrics = trainer.train_epoch(self._step_reporter(seed, trainer) if self.rank == 0 else None)
            state.update(seed, trainer)
            if self.rank == 0:
                if trainer.done == 1 and (reason := reason_for_eager_steps(trainer)):
                    self.sender.send(StepByStep(reason))
                self.checkpoints.write(serialize(state), state.epochs_done)
                trouble = first_epochs(trainer.history, trainer.epochs)
                self.sender.send(EpochDone(time.time(), seed, metrics, trouble))

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
                self.sender.send(StepsDone(seed, epoch + step / trainer.steps, images_per_second))

        return report


def reason_for_eager_steps(trainer: Trainer) -> str | None:
    """Say why a trainer on a GPU has not captured its step; None if it has, or if ``train.capture`` is off."""
    wanted = trainer.training.device.type == "cuda" and trainer.recipe.capture != "off"
    return trainer.reason_against_capture if wanted and trainer.captured is None else None


def broadcast(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
