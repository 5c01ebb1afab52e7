"""Trials on Ray: reused workers, each of which trains one network at a time, an epoch for each answer that it gives.

A worker does nothing between two epochs until the driver says so: the driver alone knows the study and its pruner.
"""

import time
from typing import Any, NamedTuple

import torch
from ray.exceptions import RayError, RayTaskError

from pipelines.runtime.errors import ExternalError
from pipelines.training.cluster import ray, room_for_trials
from pipelines.training.trainer import Trainer, make_batches
from stn.training import NotFiniteError, choose_precision


class Task(NamedTuple):
    """A network to train: its name, its variant as a dictionary, the number of epochs and the training seed."""

    key: str
    variant: dict[str, Any]
    epochs: int
    seed: int


class Failure(NamedTuple):
    """Why a task failed, and whether it was its worker that was lost, rather than the network's own fault."""

    reason: str
    lost: bool


class Epoch(NamedTuple):
    """The metrics of one epoch, and the seconds that the worker took for it."""

    entry: dict[str, float]
    seconds: float


class Worker:
    """Holds the data and the network it is training."""

    def __init__(self, recipe: dict[str, Any], meta: dict, data: list):
        torch.set_num_threads(1)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.recipe, self.meta = recipe, meta
        self.precision, _ = choose_precision(recipe["precision"], device)
        # In a list, Ray hands over the reference: what it points to lies in the object store once for each node.
        self.batches = make_batches(ray.get(data[0]), meta, recipe, device)
        self.key, self.fit = None, None

    def epoch(self, task: Task) -> Epoch:
        """Train the next epoch of ``task``, the first where this worker has not begun it."""
        if self.fit is None or self.key != task.key:
            recipe = self.recipe | {"epochs": task.epochs}
            self.fit = Trainer(recipe, task.variant, self.meta, *self.batches, task.seed, self.precision)
            self.key = task.key
        started = time.perf_counter()
        try:
            return Epoch(self.fit.epoch(), time.perf_counter() - started)
        except Exception:
            self.fit = None  # gives its memory back
            raise


RemoteWorker = ray.remote(Worker)


class Pool:
    """Workers on the connected cluster; one that is lost is replaced where there is still room, its task has failed.

    Args:
        gpus_per_trial: share of a GPU for each worker, where the cluster has some.
        most: more workers than this are not needed.
        recipe: the section ``train`` of params.yaml, as a dictionary.
        meta: meta.json of the prepared data.
        data: training and validation images and labels; they are put into the object store once.
    """

    def __init__(self, gpus_per_trial: float, most: int, recipe: dict[str, Any], meta: dict, data: dict):
        self.arguments = (recipe, meta, [ray.put(data)])
        self.gpus_per_trial, self.most = gpus_per_trial, most
        self.busy: dict[ray.ObjectRef, tuple[Any, Task]] = {}
        self.paused: dict[str, Any] = {}
        self.idle: list = []
        self._hire()

    def _hire(self) -> None:
        """Fill the room that there is on the cluster now."""
        room, share = room_for_trials(self.gpus_per_trial)
        while self.size < min(room, self.most):
            self.idle.append(RemoteWorker.options(num_cpus=1, num_gpus=share).remote(*self.arguments))

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self.idle) + len(self.busy) + len(self.paused)

    def start(self, task: Task) -> None:
        """Have an idle worker train the first epoch of ``task``."""
        self._call(self.idle.pop(0), task)

    def wait(self, timeout: float) -> list[tuple[Task, Epoch | Failure]]:
        """The next answers, those that come within ``timeout`` seconds.

        For each epoch, :meth:`go_on` or :meth:`end` must follow; after a failure the worker is free already.

        Raises:
            ExternalError: no worker is left, and the cluster has no room for another.
        """
        if not self.size:
            raise ExternalError("tune: the last worker was lost and the cluster has no room for another")
        ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=timeout)
        answers: list[tuple[Task, Epoch | Failure]] = []
        for reference in ready:
            worker, task = self.busy.pop(reference)
            try:
                answers.append((task, ray.get(reference)))
                self.paused[task.key] = worker
            except RayTaskError as error:
                reason = f"{type(error.cause).__name__}: {error.cause}"[:500]
                answers.append((task, Failure(reason, lost=False)))
                if isinstance(error.cause, NotFiniteError | torch.OutOfMemoryError):
                    self.idle.append(worker)
                else:  # after some errors a CUDA process answers every task with the same
                    ray.kill(worker)
                    self._hire()
            except RayError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                # Of an error in a worker's start the cause stands last, of a death anywhere.
                reason = lines[-1] if getattr(error, "actor_init_failed", False) else " ".join(lines)
                answers.append((task, Failure(f"its worker died: {reason}"[:500], lost=True)))
                self._hire()
        return answers

    def go_on(self, task: Task) -> None:
        """Train the task's next epoch."""
        self._call(self.paused.pop(task.key), task)

    def end(self, task: Task) -> None:
        """Make the task's worker free for another."""
        self.idle.append(self.paused.pop(task.key))

    def _call(self, worker, task: Task) -> None:
        self.busy[worker.epoch.remote(task)] = (worker, task)
