"""A worker that trains the networks of trials and finalists; Ray runs it in a process of its own."""

import time
from functools import partial
from typing import NamedTuple

import torch

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.settings.metric import Metric
from pipelines.training.batches import make_training_data
from pipelines.training.precision import Precision, measure_precision
from pipelines.training.several_trainers import attempt, train_epochs
from pipelines.training.shared_data import SharedData
from pipelines.training.trainer import Trainer
from stn.classifiers import Network
from stn.settings import Recipe
from stn.training import NotFiniteError

LONGEST_REASON = 500  # characters
ENDS_ONE_TASK = (NotFiniteError, torch.OutOfMemoryError)
"""Errors after which the process goes on. After some others every later call of CUDA fails."""


class Task(NamedTuple):
    """A network to train.

    Args:
        key: unique among the tasks of a pool.
        make_network: builds the network.
        recipe: how it is trained; augmentation is the same for all tasks of a pool.
        seed: training seed.
    """

    key: str
    make_network: "partial[Network]"
    recipe: Recipe
    seed: int


class Failure(NamedTuple):
    """Why a task failed.

    Args:
        reason: in a line.
        lost: whether its worker died. The network may be fine.
        shared: whether the worker trained other tasks too, and each of them may be the cause.
    """

    reason: str
    lost: bool = False
    shared: bool = False

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """The failure of a task that raised ``error``."""
        return cls(f"{type(error).__name__}: {error}"[:LONGEST_REASON])


class Epoch(NamedTuple):
    """Metrics of one epoch by name, and the seconds in which the worker trained it and an epoch of its other tasks."""

    metrics: dict[str, float]
    seconds: float

    def score(self, metric: Metric) -> float:
        """A metric on the validation images, in [0, 1]."""
        return self.metrics[metric.on_validation]

    @property
    def number(self) -> int:
        """Number of epochs trained so far."""
        return int(self.metrics["epoch"])


class TrialData(NamedTuple):
    """The data of all tasks of a pool.

    Args:
        meta: description of the prepared data.
        shared: how a worker opens them.
        residency: the setting ``train.residency``.
    """

    meta: DatasetMeta
    shared: SharedData
    residency: str


class Worker:
    """Trains one network, or a few at a time on a GPU, all on the same data.

    Args:
        recipe: recipe of any task.
        data: the images.
        sharing: number of workers that share the memory of this worker's device.
    """

    def __init__(self, recipe: Recipe, data: TrialData, sharing: int):
        torch.set_num_threads(1)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.recipe = recipe
        self.data = make_training_data(
            data.shared.open(), data.meta, recipe, device, residency=data.residency, sharing=sharing
        )  # fmt: skip
        self.trainers: dict[str, Trainer] = {}

    def measure_precision(self, make_network: "partial[Network]") -> Precision:
        """Choose the precision of all tasks, for this network."""
        return measure_precision(self.recipe, make_network, self.data)

    def train_epochs(self, tasks: list[Task], precision: Precision) -> list[Epoch | Failure]:
        """Train the next epoch of each task, or its first one if this worker has not trained it yet.

        The tasks of earlier calls that are not given have ended. An error of :data:`ENDS_ONE_TASK` fails its task.
        Others are raised: the process may not be usable after them.
        """
        going_on = {task.key: self.trainers[task.key] for task in tasks if task.key in self.trainers}
        self.trainers = going_on  # frees the memory of the others
        outcomes: dict[str, dict[str, float] | Exception] = {}
        for task in tasks:
            if task.key not in going_on:
                made = attempt(partial(self._make_trainer, task, precision), ENDS_ONE_TASK)
                if isinstance(made, Exception):
                    outcomes[task.key] = made
                else:
                    going_on[task.key] = made
        started = time.perf_counter()
        trained = train_epochs(list(going_on.values()), [None] * len(going_on), ENDS_ONE_TASK)
        seconds = time.perf_counter() - started
        outcomes |= zip(list(going_on), trained, strict=True)
        answers: list[Epoch | Failure] = []
        for task in tasks:
            outcome = outcomes[task.key]
            if isinstance(outcome, Exception):
                going_on.pop(task.key, None)
                answers.append(Failure.of(outcome))
            else:
                answers.append(Epoch(outcome, seconds))
        return answers

    def _make_trainer(self, task: Task, precision: Precision) -> Trainer:
        return Trainer(task.make_network, task.recipe, self.data, task.seed, precision=precision.torch_dtype)
