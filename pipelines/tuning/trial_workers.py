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

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.settings.metric import Metric
from pipelines.training.batches import make_training_data
from pipelines.training.cluster import room_for_trials
from pipelines.training.precision import Precision, measure_precision
from pipelines.training.shared_data import SharedData
from pipelines.training.trainer import Trainer
from stn.classifiers import Network
from stn.settings import Recipe
from stn.training import NotFiniteError

LONGEST_REASON = 500  # characters
PROCESS_BYTES = 2**30  # memory of a worker without its images: an estimate, with a reserve


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
    """Trains one network at a time, all on the same data.

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
        self.key: str | None = None
        self.trainer: Trainer | None = None

    def measure_precision(self, make_network: "partial[Network]") -> Precision:
        """Choose the precision of all tasks, for this network."""
        return measure_precision(self.recipe, make_network, self.data)

    def train_epoch(self, task: Task, precision: Precision) -> Epoch:
        """Train the next epoch of ``task``, or its first one if this worker has not trained it yet.

        Raises:
            NotFiniteError: the loss became infinite or NaN.
        """
        if self.trainer is None or self.key != task.key:
            dtype = precision.torch_dtype
            self.trainer = Trainer(task.make_network, task.recipe, self.data, task.seed, precision=dtype)
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
        data: the data of all tasks.
        memory: bytes that a worker needs.

    Attributes:
        precision: of every task.
    """

    def __init__(
        self, gpus_per_trial: float, most: int, recipe: Recipe, data: TrialData, *, memory: int = PROCESS_BYTES
    ):  # fmt: skip
        self.recipe, self.data, self.memory = recipe, data, memory
        self.gpus_per_trial, self.most = gpus_per_trial, most
        self.busy: dict[ray.ObjectRef, tuple[Any, Task]] = {}
        self.paused: dict[str, Any] = {}  # workers that have answered, by the key of their task
        self.idle: list[Any] = []
        self.precision = Precision("float32", "no other was chosen")
        self._start_workers()

    def _start_workers(self) -> None:
        """Start as many workers as the cluster has room for now."""
        room, share, memory = room_for_trials(self.gpus_per_trial, self.memory)
        number = min(room, self.most)
        options = RemoteWorker.options(num_cpus=1, num_gpus=share, memory=memory)
        while self.size < number:
            self.idle.append(options.remote(self.recipe, self.data, round(1 / share) if share else number))

    def measure_precision(self, make_network: "partial[Network]") -> Precision | None:
        """Have a worker choose a precision for this network; None if it fails."""
        try:
            chosen: Any = ray.get(self.idle[0].measure_precision.remote(make_network))
        except RayError as error:
            print(f"tune: the precision could not be measured: {_describe_death(error)}"[:LONGEST_REASON], flush=True)
            return None
        return chosen

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
        self.busy[worker.train_epoch.remote(task, self.precision)] = (worker, task)


def _describe_death(error: Exception) -> str:
    """Ray's message in one line. If the worker failed while it started, only the last line names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if getattr(error, "actor_init_failed", False) else " ".join(lines)
