"""Pool of Ray workers that train trials: each worker is reused, and trains one network or several at a time.

A worker answers after an epoch of each and then waits for the driver, because only the driver knows the study and its
pruner.
"""

from functools import partial
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.settings.params import TuneParams
from pipelines.training.cluster import room_for_trials
from pipelines.training.precision import Precision
from pipelines.tuning.trial_worker import LONGEST_REASON, Epoch, Failure, Task, TrialData, Worker
from stn.classifiers import Network
from stn.settings import Recipe

PROCESS_BYTES = 2**30  # memory of a worker without its images: an estimate, with a reserve

RemoteWorker = ray.remote(Worker)


class Hired(NamedTuple):
    """A worker of a pool, the tasks that it trains, and how many it may train at a time."""

    worker: Any
    tasks: list[Task]
    limit: int


class Pool:
    """Workers on the connected cluster.

    The tasks of a lost worker fail, and the worker is replaced if the cluster has room. If it had several, each worker
    trains one task at a time from then on.

    Args:
        tune: the settings ``gpus_per_trial`` and ``trials_at_once``; not used on a cluster without GPUs.
        most: largest number of tasks at a time.
        recipe: recipe of any task.
        data: the data of all tasks.
        memory: bytes that a worker needs.

    Attributes:
        precision: of every task.
    """

    def __init__(self, tune: TuneParams, most: int, recipe: Recipe, data: TrialData, *, memory: int = PROCESS_BYTES):
        self.tune, self.most, self.recipe, self.data, self.memory = tune, most, recipe, data, memory
        self.busy: dict[ray.ObjectRef, Hired] = {}
        self.waiting: list[Hired] = []  # those that have answered or have no task
        self.one_at_a_time = False
        self.precision = Precision("float32", "no other was chosen")
        self._start_workers()

    def _start_workers(self) -> None:
        """Start as many workers as the cluster has room for now."""
        wanted = min(1.0, self.tune.gpus_per_trial * self.tune.trials_at_once)
        room, share, memory = room_for_trials(wanted, self.memory)
        number = min(room, self.most)
        options = RemoteWorker.options(num_cpus=1, num_gpus=share, memory=memory)
        while len(self.waiting) + len(self.busy) < number:
            worker = options.remote(self.recipe, self.data, round(1 / share) if share else number)
            self.waiting.append(Hired(worker, [], self.tune.trials_at_once if share else 1))

    def measure_precision(self, make_network: "partial[Network]") -> Precision | None:
        """Have a worker choose a precision for this network; None if it fails."""
        try:
            chosen: Any = ray.get(self.waiting[0].worker.measure_precision.remote(make_network))
        except RayError as error:
            print(f"tune: the precision could not be measured: {_describe_death(error)}"[:LONGEST_REASON], flush=True)
            return None
        return chosen

    @property
    def size(self) -> int:
        """Number of tasks that can be trained at a time."""
        return min(self.most, sum(hired.limit for hired in (*self.waiting, *self.busy.values())))

    @property
    def has_room(self) -> bool:
        """Whether :meth:`add` can be called."""
        return any(map(self._has_room, self.waiting))

    def _has_room(self, hired: Hired) -> bool:
        return len(hired.tasks) < (1 if self.one_at_a_time else hired.limit)

    def add(self, task: Task) -> None:
        """Give a task to the waiting worker that has the fewest, among those with room."""
        min(filter(self._has_room, self.waiting), key=lambda hired: len(hired.tasks)).tasks.append(task)

    def train(self) -> None:
        """Let every waiting worker that has tasks train an epoch of each."""
        self._train([hired for hired in self.waiting if hired.tasks])

    def train_full(self) -> None:
        """Let every waiting worker without room for another task train an epoch of each of its tasks."""
        self._train([hired for hired in self.waiting if not self._has_room(hired)])

    def _train(self, chosen: list[Hired]) -> None:
        for hired in chosen:
            self.waiting.remove(hired)
            self.busy[hired.worker.train_epochs.remote(hired.tasks, self.precision)] = hired

    def wait(self, timeout: float) -> list[tuple[Task, Epoch | Failure]]:
        """Wait up to ``timeout`` seconds for the answers of a worker; at least one must be training.

        After a failure the task has ended. The others go on, unless :meth:`end` is called.
        """
        ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=timeout)
        return [answer for reference in ready for answer in self._receive(reference)]

    def _receive(self, reference: Any) -> list[tuple[Task, Epoch | Failure]]:
        hired = self.busy.pop(reference)
        try:
            outcomes: Any = ray.get(reference)
        except RayError as error:
            if isinstance(error, RayTaskError):
                ray.kill(hired.worker)
                failure = Failure.of(error.cause)
            else:
                failure = Failure(f"its worker died: {_describe_death(error)}"[:LONGEST_REASON], lost=True)
            if len(hired.tasks) > 1:
                failure = failure._replace(shared=True)
                self.one_at_a_time = True
            self._start_workers()
            return [(task, failure) for task in hired.tasks]
        answers = list(zip(hired.tasks, outcomes, strict=True))
        self.waiting.append(hired._replace(tasks=[task for task, answer in answers if isinstance(answer, Epoch)]))
        return answers

    def end(self, task: Task) -> None:
        """End ``task``, which has answered; its worker can train another one."""
        next(hired for hired in self.waiting if task in hired.tasks).tasks.remove(task)


def _describe_death(error: Exception) -> str:
    """Ray's message in one line. If the worker failed while it started, only the last line names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if getattr(error, "actor_init_failed", False) else " ".join(lines)
