"""The training function: trains the seeds of one variant, one or several at a time, and stores checkpoints.

A checkpoint holds the :class:`~pipelines.training.state.SeedState` of a seed: network, optimizer and schedule, or the
result. Random numbers are derived from (seed, epoch, rank) at the start of each epoch, so that a training that was
killed and resumed ends with the same weights as an undisturbed one.
"""

import time
from dataclasses import dataclass
from functools import partial

import torch

from pipelines.outputs.prepared_data import DatasetMeta, TrainingSplits
from pipelines.training.batches import make_training_data
from pipelines.training.checkpoints import CheckpointWriter, seed_storage
from pipelines.training.messages import SeedStarted, Sender, WorkersStarted
from pipelines.training.precision import Precision, measure_precision
from pipelines.training.ranks import broadcast, leave_group
from pipelines.training.seed_training import SeedTraining
from pipelines.training.several_trainers import train_epochs
from pipelines.training.state import SeedState, load_states
from pipelines.training.trainer import Trainer
from stn.classifiers import Network
from stn.settings import Recipe
from stn.training import NotFiniteError


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
        seeds_at_once: number of seeds that a worker trains at a time, see :mod:`pipelines.training.several_trainers`.
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
    seeds_at_once: int = 1
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
        for start in range(0, len(unfinished), self.job.seeds_at_once):
            together = unfinished[start : start + self.job.seeds_at_once]
            if not self._train_seeds([self._start_seed(seed, precision, states.pop(seed, None)) for seed in together]):
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

    def _start_seed(self, seed: int, precision: Precision, state: SeedState | None) -> SeedTraining:
        """Make what trains a seed, from ``state`` if there is one."""
        trainer = Trainer(
            self.job.make_network, self.job.recipe, self.data, seed,
            precision=precision.torch_dtype, rank=self.rank, world_size=self.world_size,
        )  # fmt: skip
        if state is not None and state.trainer is not None:
            trainer.load_state_dict(state.trainer)
        if self.rank == 0:
            self.sender.send(SeedStarted(seed))
        checkpoints = CheckpointWriter(seed_storage(self.job.storage, seed), self.job.keep)
        return SeedTraining(trainer, precision, checkpoints, self.sender)

    def _train_seeds(self, trainings: list[SeedTraining]) -> bool:
        """Train to the end, an epoch of each in turn; returns whether other seeds are to be trained then."""
        while trainings:
            reporters = [training.step_reporter() if self.rank == 0 else None for training in trainings]
            outcomes = train_epochs([training.trainer for training in trainings], reporters, (NotFiniteError,))
            going_on = []
            for training, outcome in zip(trainings, outcomes, strict=True):
                if self.rank == 0:
                    training.end_epoch(outcome, others_go_on=self.job.per_seed)
                if not isinstance(outcome, NotFiniteError) and training.trainer.done < training.trainer.epochs:
                    going_on.append(training)
            # All ranks have the same outcomes. No error leaves the worker, because Ray would repeat the training.
            if not self.job.per_seed and any(isinstance(outcome, NotFiniteError) for outcome in outcomes):
                return False
            trainings = going_on
        return True
