"""Loop that runs tasks on the pool of trial workers."""

from abc import ABC, abstractmethod

from pipelines.tuning.heartbeat import Heartbeat
from pipelines.tuning.trial_pool import Pool
from pipelines.tuning.trial_worker import Epoch, Failure, Task

WAIT_S = 0.5


class TaskHandler(ABC):
    """Supplies the tasks of :func:`run_tasks` and handles the answers of the workers."""

    @abstractmethod
    def is_unfinished(self) -> bool:
        """Whether a task is running or still has to be started."""

    @abstractmethod
    def next_task(self) -> Task | None:
        """Return the task to start now, or None; called while a worker has room."""

    @abstractmethod
    def on_start(self, task: Task) -> None:
        """Called after a worker has been given the task."""

    @abstractmethod
    def should_continue(self, task: Task, epoch: Epoch) -> bool:
        """Whether another epoch follows this one; called once after each epoch."""

    @abstractmethod
    def on_epoch(self, task: Task, epoch: Epoch) -> None:
        """Called after each epoch. A worker without room for another task trains the next epoch at this time."""

    @abstractmethod
    def on_end(self, task: Task, epoch: Epoch) -> None:
        """Called after the last epoch, after :meth:`on_epoch`."""

    @abstractmethod
    def on_failure(self, task: Task, failure: Failure) -> None:
        """Called when a task has failed; an exception stops the loop."""

    def refresh(self) -> None:  # noqa: B027 (optional)
        """Called about every ``WAIT_S``, for example to update a display; does nothing by default."""


def run_tasks(pool: Pool, handler: TaskHandler, heartbeat: Heartbeat) -> None:
    """Run the tasks of ``handler`` until none is left.

    Raises:
        ExternalError: another driver runs the study.
    """
    while handler.is_unfinished():
        started = []
        while pool.has_room and (task := handler.next_task()) is not None:
            pool.add(task)
            started.append(task)
        pool.train()
        for task in started:
            handler.on_start(task)
        answers = pool.wait(WAIT_S)
        ended = set()
        for task, answer in answers:
            if isinstance(answer, Epoch) and not handler.should_continue(task, answer):
                pool.end(task)
                ended.add(task.key)
        pool.train_full()  # first, so that these workers do not wait for MLflow
        # A failure may stop the loop: the results of the other tasks come before it.
        for task, answer in sorted(answers, key=lambda pair: isinstance(pair[1], Failure)):
            if isinstance(answer, Failure):
                handler.on_failure(task, answer)
                continue
            handler.on_epoch(task, answer)
            if task.key in ended:
                handler.on_end(task, answer)
        handler.refresh()
        heartbeat.send_if_due()
