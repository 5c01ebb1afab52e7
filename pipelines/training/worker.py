"""The training function: trains the seeds of one variant, one after another, and stores checkpoints.

A checkpoint holds the :class:`~pipelines.training.state.SeedState` of a seed: network, optimizer and schedule, or the
result. Random numbers are derived from (seed, epoch, rank) at the start of each epoch, so that a training that was
killed and resumed ends with the same weights as an undisturbed one.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from pipelines.outputs.prepared_data import DatasetMeta, TrainingSplits
from pipelines.training.batches import make_training_data
from pipelines.training.checkpoints import CheckpointWriter, seed_storage
from pipelines.training.messages import EpochDone, NotFinite, SeedStarted, Sender, StepByStep, StepsDone, WorkersStarted
from pipelines.training.precision import Precision, measure_precision
from pipelines.training.ranks import broadcast, leave_group
from pipelines.training.state import SeedState, load_states, serialize
from pipelines.training.trainer import Trainer
from stn.classifiers import Network
from stn.settings import Recipe
from stn.theta_trouble import first_epochs
from stn.training import NotFiniteError

REPORT_EVERY_S = 1.0
# A GPU can train an epoch in less time than a checkpoint takes. A kill costs this much work more.
CHECKPOINT_EVERY_S = 1.0


@dataclass(frozen=True)
class TrainingJob:
    """What each worker of a training receives.

    Args:
        make_network: builds the variant's network.
        recipe: how each seed is trained.
        seeds: the training seeds, in the order of training.
        meta: description of the prepared data.
        storage: folder of the checkpoints, an absolute path or a URI.
        keep: number of checkpoints of each seed to keep, the newest.
        threads: CPU threads of each worker.
        per_seed: whether each worker trains seeds of its own; otherwise all workers share each batch.
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
    per_seed: bool = False
    residency: str = "auto"
    precision: Precision | None = None


class TrainingWorker:
    """One of ``world_size`` workers.

    Either all of them share the batches of one seed after another, and rank 0 alone stores checkpoints and sends
    messages; or each trains seeds of its own and does this itself. Rank 0 alone loads checkpoints.

    Args:
        job: the training.
        splits: its images and labels.
        device: where the network is trained.
        sender: takes the messages.
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
        # Among all workers; rank and world_size are those among the workers that share a batch.
        self.place, self.workers = rank, world_size
        self.rank, self.world_size = (0, 1) if job.per_seed else (rank, world_size)
        torch.set_num_threads(job.threads)
        self.data = make_training_data(
            splits, job.meta, job.recipe, device, residency=job.residency, sharing=sharing
        )  # fmt: skip

    def run(self) -> None:
        """Train every seed of this worker that is not finished yet, from its latest checkpoint."""
        precision, states = broadcast(self._start() if self.place == 0 else None)  # they may be on different machines
        unfinished = [seed for seed in self.job.seeds if seed not in states or states[seed].finished is None]
        if self.job.per_seed:
            leave_group()
            unfinished = unfinished[self.place :: self.workers]
        states = {seed: states[seed] for seed in unfinished if seed in states}  # frees those of other workers
        for seed in unfinished:
            try:
                self._train_seed(seed, precision, states.pop(seed, None))
            except NotFiniteError as error:
                # All ranks raise it. No error leaves the worker, because Ray would repeat the training.
                if self.rank == 0:
                    self.sender.send_and_wait(NotFinite(seed, str(error), others_go_on=self.job.per_seed))
                if not self.job.per_seed:
                    return

    def _start(self) -> tuple[Precision, dict[int, SeedState]]:
        """Load the checkpoints, choose the precision, and tell the driver."""
        job = self.job
        states, notes = load_states(job.storage)
        precision = next((state.precision for state in states.values()), job.precision)
        if precision is None:
            precision = measure_precision(job.recipe, job.make_network, self.data, self.world_size)
        message = WorkersStarted(
            time=time.time(),
            device=str(self.device),
            precision=precision,
            workers=self.world_size,
            resumed={seed: state.epochs_done for seed, state in states.items()},
            notes=notes,
        )
        self.sender.send(message)
        return precision, states

    def _train_seed(self, seed: int, precision: Precision, state: SeedState | None) -> None:
        """Train one seed to its end, from ``state`` if there is one."""
        trainer = Trainer(
            self.job.make_network, self.job.recipe, self.data, seed,
            precision=precision.torch_dtype, rank=self.rank, world_size=self.world_size,
        )  # fmt: skip
        if state is not None and state.trainer is not None:
            trainer.load_state_dict(state.trainer)
        if self.rank == 0:
            self.sender.send(SeedStarted(seed))
        checkpoints = CheckpointWriter(seed_storage(self.job.storage, seed), self.job.keep)
        stored, unsent = -math.inf, []
        while trainer.done < trainer.epochs:
            metrics = trainer.train_epoch(self._step_reporter(seed, trainer) if self.rank == 0 else None)
            if self.rank == 0:
                if trainer.done == 1 and (reason := reason_for_eager_steps(trainer)):
                    self.sender.send(StepByStep(reason))
                trouble = first_epochs(trainer.history, trainer.epochs)
                unsent.append(EpochDone(time.time(), seed, metrics, trouble))
                if trainer.done == trainer.epochs or time.monotonic() - stored >= CHECKPOINT_EVERY_S:
                    checkpoints.write(serialize(SeedState.of(trainer, precision)), trainer.done)
                    stored = time.monotonic()
                    # An epoch that is not stored is trained again after a kill, and would be logged twice.
                    for message in unsent:
                        self.sender.send(message)
                    unsent = []

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
