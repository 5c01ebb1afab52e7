"""Trials of a study: ask Optuna for values, train, report each epoch, prune, tell the result."""

import time
from dataclasses import dataclass, field

import optuna
from optuna.trial import TrialState

from pipelines.runtime.errors import ExternalError
from pipelines.settings.variants import VariantParams
from pipelines.training.memory import ran_out_of_memory
from pipelines.tuning.heartbeat import Heartbeat
from pipelines.tuning.live_table import TrialsTable
from pipelines.tuning.runs import ChildRun, StudyRuns
from pipelines.tuning.search_space import draw, draw_only, find_misfit
from pipelines.tuning.setup import TuningSetup
from pipelines.tuning.study import (
    BASELINE_TRIAL,
    FAILURE,
    OVERHEAD,
    count_remaining,
    enqueue_trial,
    failure_reason,
    finished_trials,
    reject_trial,
    retry_trial,
)
from pipelines.tuning.task_loop import TaskHandler, run_tasks
from pipelines.tuning.trial_pool import Pool
from pipelines.tuning.trial_worker import Epoch, Failure, Task

NEED_LESS_MEMORY = "lower train.batch_size, or raise tune.gpus_per_trial, so that fewer trials share a GPU,"


def enqueue_baseline(study: optuna.Study, setup: TuningSetup) -> None:
    """Make the baseline network the first trial of a new study."""
    if not study.trials:
        enqueue_trial(study, setup.baseline_values, {BASELINE_TRIAL: True})


def run_trials(study: optuna.Study, setup: TuningSetup, runs: StudyRuns, pool: Pool, heartbeat: Heartbeat) -> None:
    """Run trials until ``tune.trials`` are finished.

    Raises:
        ExternalError: all of them failed.
    """
    settings = setup.params.tune
    metric = setup.params.evaluate.metric
    with TrialsTable("tune", settings.trials, settings.epochs, finished_trials(study), metric) as table:
        run_tasks(pool, Trials(study, setup, runs, table), heartbeat)
    finished = finished_trials(study)
    if finished and all(trial.state == TrialState.FAIL for trial in finished):
        first = failure_reason(finished[0])
        remedy = NEED_LESS_MEMORY if ran_out_of_memory(first) else "fix the cause"
        raise ExternalError(
            f"tune: all {len(finished)} trials failed; the first: {first}; {remedy} and raise tune.trials to try others"
        )


def ask_trial(study: optuna.Study, setup: TuningSetup) -> tuple[optuna.Trial, VariantParams]:
    """Ask for the next trial whose network can be trained; the others are rejected."""
    space = setup.params.tune.search_space
    while True:  # ends soon: check_space has found that random draws can be trained
        trial = study.ask()
        if BASELINE_TRIAL in trial.user_attrs:
            draw_only(trial, space, list(setup.baseline_values))
            return trial, setup.baseline
        variant = draw(trial, space, setup.baseline.classifier)
        misfit = find_misfit(variant, setup.meta, setup.max_parameters)
        if misfit is None:
            return trial, variant
        reject_trial(study, trial, misfit)


@dataclass
class RunningTrial:
    """A trial that a worker is training.

    Args:
        trial: the trial in the study.
        run: its run in MLflow.
        scores: ``evaluate.metric`` on the validation images after each epoch.
        training_seconds: time that the worker has spent in epochs.
        started: value of ``time.monotonic()``.
        pruned: whether the pruner has stopped it.
    """

    trial: optuna.Trial
    run: ChildRun
    scores: list[float] = field(default_factory=list)
    training_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)
    pruned: bool = False


class Trials(TaskHandler):
    """Trials of an open study.

    MLflow is updated before the study: after a kill in between, the trial is tried again and no run stays open.
    """

    def __init__(self, study: optuna.Study, setup: TuningSetup, runs: StudyRuns, table: TrialsTable):
        self.study, self.setup, self.runs, self.table = study, setup, runs, table
        self.metric = setup.params.evaluate.metric
        self.running: dict[str, RunningTrial] = {}

    def is_unfinished(self) -> bool:
        return bool(self.running) or self._count_remaining() > 0

    def _count_remaining(self) -> int:
        return count_remaining(self.study, self.setup.params.tune)

    def next_task(self) -> Task | None:
        if self._count_remaining() <= len(self.running):
            return None
        trial, variant = ask_trial(self.study, self.setup)
        task = self.setup.trial_task(str(trial.number), variant)
        self.running[task.key] = RunningTrial(trial, self.runs.trial_run(trial))
        return task

    def on_start(self, task: Task) -> None:
        self.running[task.key].run.start()

    def should_continue(self, task: Task, epoch: Epoch) -> bool:
        running = self.running[task.key]
        running.scores.append(epoch.score(self.metric))
        running.training_seconds += epoch.seconds
        running.trial.report(running.scores[-1], step=epoch.number)
        if epoch.number == task.recipe.epochs:
            return False
        running.pruned = running.trial.should_prune()
        return not running.pruned

    def on_epoch(self, task: Task, epoch: Epoch) -> None:
        self.running[task.key].run.log_epoch(epoch.metrics)

    def on_end(self, task: Task, epoch: Epoch) -> None:
        running = self.running.pop(task.key)
        overhead = time.monotonic() - running.started - running.training_seconds
        running.trial.set_user_attr(OVERHEAD, overhead)
        if running.pruned:
            running.run.end("pruned")
            self.study.tell(running.trial, state=TrialState.PRUNED)
        else:
            running.run.end("finished")
            self.study.tell(running.trial, epoch.score(self.metric))
        self.table.add_finished(self.study.trials[running.trial.number])

    def on_failure(self, task: Task, failure: Failure) -> None:
        running = self.running.pop(task.key)
        running.trial.set_user_attr(FAILURE, failure.reason)
        again = failure.shared and retry_trial(self.study, running.trial)
        running.run.end("failed", failure.reason)
        self.study.tell(running.trial, state=TrialState.FAIL)
        if again:
            print(f"tune: trial {running.trial.number} is tried again, alone: {failure.reason}", flush=True)
            return
        self.table.add_finished(self.study.trials[running.trial.number])

    def refresh(self) -> None:
        self.table.show({running.trial.number: running.scores for running in self.running.values()})
