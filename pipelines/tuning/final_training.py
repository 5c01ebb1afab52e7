"""Full-length training of the finalists on the trial workers."""

from typing import NamedTuple

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.progress import Reporter, progress
from pipelines.tuning.finalists import Final, Finals
from pipelines.tuning.heartbeat import Heartbeat
from pipelines.tuning.runs import ChildRun, StudyRuns
from pipelines.tuning.task_loop import TaskHandler, run_tasks
from pipelines.tuning.trial_pool import Pool
from pipelines.tuning.trial_worker import Epoch, Failure, Task


def train_finalists(finals: Finals, runs: StudyRuns, pool: Pool, heartbeat: Heartbeat) -> None:
    """Train the finalists for ``train.epochs``; each result is stored in the study as soon as it exists.

    Raises:
        ExternalError: a worker was lost, or the baseline could not be trained; the next start tries again.
    """
    remaining = finals.remaining()
    with progress("finalists", len(remaining) * finals.setup.params.train.epochs) as reporter:
        run_tasks(pool, FinalTraining(finals, remaining, runs, reporter), heartbeat)


class RunningFinal(NamedTuple):
    """A full-length training that a worker is running, and its run in MLflow."""

    final: Final
    run: ChildRun


class FinalTraining(TaskHandler):
    """Full-length trainings of a study. They are never pruned.

    A failure whose cause may be another training of the same worker is followed by another try. A lost worker or a
    failure of the baseline stops the stage without a result, so that the next start tries again. Any other failure is a
    result.
    """

    def __init__(self, finals: Finals, waiting: list[Final], runs: StudyRuns, reporter: Reporter):
        self.finals, self.waiting, self.runs, self.reporter = finals, list(waiting), runs, reporter
        self.metric = finals.setup.params.evaluate.metric
        self.running: dict[str, RunningFinal] = {}
        self.epochs: dict[str, int] = {}  # done, by key

    def is_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    def next_task(self) -> Task | None:
        if not self.waiting:
            return None
        final = self.waiting.pop(0)
        key = self.finals.key(final)
        self.running[key] = RunningFinal(final, self.runs.final_run(key, final))
        return self.finals.setup.final_task(key, final.finalist.variant, final.seed)

    def on_start(self, task: Task) -> None:
        self.running[task.key].run.start()

    def should_continue(self, task: Task, epoch: Epoch) -> bool:
        return epoch.number < task.recipe.epochs

    def on_epoch(self, task: Task, epoch: Epoch) -> None:
        running = self.running[task.key]
        self.epochs[task.key] = epoch.number
        name, score = running.final.finalist.name, f"{epoch.score(self.metric):.2%}"
        self.reporter.update(sum(self.epochs.values()), f"{name} · validation {self.metric.label} {score}")
        running.run.log_epoch(epoch.metrics)

    def on_end(self, task: Task, epoch: Epoch) -> None:
        final, run = self.running.pop(task.key)
        run.end("finished")
        name, score = final.finalist.name, epoch.score(self.metric)
        self.finals.store_score(final, score)
        print(f"tune: {name}, training seed {final.seed}: validation {self.metric.label} {score:.2%}", flush=True)

    def on_failure(self, task: Task, failure: Failure) -> None:
        final, run = self.running.pop(task.key)
        run.end("failed", failure.reason)
        name = final.finalist.name
        if failure.shared:
            print(f"tune: {name} is trained again, alone: {failure.reason}", flush=True)
            self.epochs.pop(task.key, None)
            self.waiting.append(final)
            return
        if failure.lost or final.finalist.trial is None:
            raise ExternalError(f"tune: {name} could not be trained: {failure.reason}")
        print(f"tune: {name} failed at full length: {failure.reason}", flush=True)
        self.finals.store_failure(final, failure.reason)
