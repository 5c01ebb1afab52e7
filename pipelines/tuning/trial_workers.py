"""Pool of Ray workers that train trials: each worker is reused and trains one network at a time.

A worker answers after every epoch and then waits for the driver, because only the driver knows the study and its
pruner.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from pipelines.outputs.prepared_data import DatasetMeta, TrainingArrays
from pipelines.settings.metric import Metric
from pipelines.training.batches import make_training_data
from pipelines.training.cluster import room_for_trials
from pipelines.training.trainer import Trainer
from stn.classifiers import Network
from stn.settings import Recipe
from stn.training import NotFiniteError, choose_precision

LONGEST_REASON = 500  # characters


class Task(NamedTuple):
    """A network to train.

    Args:
        key: unique among the tasks of a pool.
        make_network: builds the network.
        recipe: how it is trained; augmentation and ``precision`` are the same for all tasks of a pool.
        seed: training seed.
    """

    key: str
    make_network: "partial[Network]"
    recipe: Recipe
    seed: int


class Failure(NamedTuple):
    """Why a task failed. ``lost`` means that its worker died. The network may be fine."""

    reason: str
    lost: bool


class Epoch(NamedTuple):
    """Metrics of one epoch by name, and the seconds that the worker took for it."""

    metrics: dict[str, float]
    seconds: float

    def score(self, metric: Metric) -> float:
        """A metric on the validation images, in [0, 1]."""
        return self.metrics[metric.on_validation]

    @property
    def number(self) -> int:
        """Number of epochs trained so far."""
        return int(self.metrics["epoch"])


class Worker:
    """Trains one network at a time on data that stay in its memory.

    Args:
        recipe: recipe of any task.
        meta: description of the prepared data.
        data: list with one reference to :class:`~pipelines.outputs.prepared_data.TrainingArrays`. Ray passes a
            reference in a list as it is, so that the arrays are in the object store once for each node.
    """

    def __init__(self, recipe: Recipe, meta: DatasetMeta, data: list):
        torch.set_num_threads(1)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision, _ = choose_precision(recipe.precision, device)
        self.data = make_training_data(ray.get(data[0]), meta, recipe, device)
        self.key: str | None = None
        self.trainer: Trainer | None = None

    def train_epoch(self, task: Task) -> Epoch:
        """Train the next epoch of ``task``, or its first one if this worker has not trained it yet.

        Raises:
            NotFiniteError: the loss became infinite or NaN.
        """
        if self.trainer is None or self.key != task.key:
            self.trainer = Trainer(task.make_network, task.recipe, self.data, task.seed, precision=self.precision)
            self.key = task.key
        started = time.perf_counter()
        try:
            return Epoch(self.trainer.train_epoch(), time.perf_counter() - started)
        except Exception:
            self.trainer = None  # frees its memory
            raise


RemoteWorker = ray.remote(Worker)


class Pool:
    """Workers on the connected cluster.

    The task of a lost worker fails, and the worker is replaced if the cluster has room.

    Args:
        gpus_per_trial: share of a GPU for each worker, in (0, 1]; not used on a cluster without GPUs.
        most: largest number of workers.
        recipe: recipe of any task.
        meta: description of the prepared data.
        arrays: training and validation split; they are put into the object store once.
    """

    def __init__(self, gpus_per_trial: float, most: int, recipe: Recipe, meta: DatasetMeta, arrays: TrainingArrays):
        self.arguments = (recipe, meta, [ray.put(arrays)])
        self.gpus_per_trial, self.most = gpus_per_trial, most
        self.busy: dict[ray.ObjectRef, tuple[Any, Task]] = {}
        self.paused: dict[str, Any] = {}  # workers that have answered, by the key of their task
        self.idle: list[Any] = []
        self._start_workers()

    def _start_workers(self) -> None:
        """Start as many workers as the cluster has room for now."""
        room, share = room_for_trials(self.gpus_per_trial)
        while self.size < min(room, self.most):
            self.idle.append(RemoteWorker.options(num_cpus=1, num_gpus=share).remote(*self.arguments))

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self.idle) + len(self.busy) + len(self.paused)

    def start(self, task: Task) -> None:
        """Train the first epoch of ``task`` on an idle worker."""
        self._call(self.idle.pop(0), task)

    def wait(self, timeout: float) -> list[tuple[Task, Epoch | Failure]]:
        """Wait up to ``timeout`` seconds for an answer; at least one task must be running.

        Each epoch must be followed by :meth:`go_on` or :meth:`end`. After a failure the task has ended already.
        """
        ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=timeout)
        return [self._receive(reference) for reference in ready]

    def _receive(self, reference: Any) -> tuple[Task, Epoch | Failure]:
        worker, task = self.busy.pop(reference)
        try:
            epoch: Any = ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, NotFiniteError | torch.OutOfMemoryError):
                self.idle.append(worker)
            else:  # after some errors a CUDA process fails every later task with the same error
                ray.kill(worker)
                self._start_workers()
            return task, Failure(f"{type(error.cause).__name__}: {error.cause}"[:LONGEST_REASON], lost=False)
        except RayError as error:
            self._start_workers()
            return task, Failure(f"its worker died: {_describe_death(error)}"[:LONGEST_REASON], lost=True)
        self.paused[task.key] = worker
        return task, epoch

    def go_on(self, task: Task) -> None:
        """Train the next epoch of ``task``."""
        self._call(self.paused.pop(task.key), task)

    def end(self, task: Task) -> None:
        """End ``task``; its worker becomes idle."""
        self.idle.append(self.paused.pop(task.key))

    def _call(self, worker: Any, task: Task) -> None:
        self.busy[worker.train_epoch.remote(task)] = (worker, task)


def _describe_death(error: Exception) -> str:
    """Ray's message in one line. If the worker failed while it started, only the last line names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if getattr(error, "actor_init_failed", False) else " ".join(lines)
