"""The search: trials, finalists, winner."""

import statistics
import time
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipelines.outputs.prepared_data import load_arrays
from pipelines.outputs.tuning_results import PICTURES
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.progress import progress
from pipelines.settings.params import Params
from pipelines.settings.variants import Origin, VariantParams
from pipelines.tracking.client import TrainingRun, experiment_id, flatten
from pipelines.tracking.lineage import current_commit
from pipelines.tracking.outbox import Outbox, Run
from pipelines.training.cluster import ran_out_of_memory
from pipelines.tuning import search_space, study
from pipelines.tuning.figures import save_figures
from pipelines.tuning.finalists import Finalist, Finals
from pipelines.tuning.live_table import TrialsTable
from pipelines.tuning.trial_workers import Epoch, Failure, Pool, Task
from pipelines.tuning.winner import conclude

NEED_LESS_MEMORY = "lower train.batch_size, or raise tune.gpus_per_trial, so that fewer share a GPU,"


NO_CONCERN_OF_TRIALS = {"epochs", "seeds", "final_fit", "workers", "threads", "max_failures"}  # in the section train


class Tuning:
    """One study at work."""

    def __init__(
        self,
        opened: optuna.Study,
        delivery: Outbox,
        params: Params,
        baseline: VariantParams,
        meta: dict,
        max_parameters: int | None,
    ):
        self.study, self.params, self.baseline, self.meta = opened, params, baseline, meta
        self.delivery, self.commit = delivery, current_commit()
        self.max_parameters = max_parameters
        self.settings = params.tune
        self.finals = Finals(opened, params, baseline)
        self.beaten = time.monotonic()
        self.baseline_values = search_space.from_variant(baseline, params.train.weight_decay)
        self.experiment = experiment_id(delivery.client, f"stn-{meta['dataset']}")
        self.parent = TrainingRun(delivery, self.experiment, opened.study_name, f"tune-{meta['dataset']}")
        # A parameter is logged once and for all; what may change within a study is a tag.
        made_of = self.settings.model_dump(include={"search_space", "max_parameters", "epochs", "seed"})
        may_change = self.settings.model_dump(exclude=set(made_of))
        tags = {name: str(value) for name, value in flatten({"tune": may_change}).items()}
        tags |= self.commit.tags | {"data_digest": meta["digest"], "study": opened.study_name}
        recipe = params.train.model_dump(exclude=NO_CONCERN_OF_TRIALS)
        self.parent.describe_now(flatten({"tune": made_of, "train": recipe}), tags, meta, self.commit.diff)
        for trial in study.recover(opened):
            print(f"tune: trial {trial.number} was left unfinished when its driver was killed", flush=True)
            _end_run(self._run_of(trial), "failed", study.reason(trial))
        if not opened.trials:
            values = search_space.inside(self.baseline_values, self.settings.search_space)
            study.queue(opened, values, **{study.BASELINE_TRIAL: True})

    def left(self) -> int:
        """How many trials are still to be run."""
        return self.settings.trials - len(study.finished_trials(self.study))

    def hire(self) -> None:
        """Have workers made on the connected cluster, as many as there is room and work for."""
        work = max(self.left(), (self.settings.finalists + 1) * len(self.settings.final_seeds))
        share, recipe = self.settings.gpus_per_trial, self.params.train.model_dump()
        self.pool = Pool(share, work, recipe, self.meta, load_arrays())
        print(
            f"tune: {self.study.study_name}: {len(study.finished_trials(self.study))} of {self.settings.trials} trials "
            f"done, "
            f"{self.pool.size} at once", flush=True,
        )  # fmt: skip
        self.parent.start()

    def search(self) -> None:
        """Ask, train, tell, until ``tune.trials`` trials are finished.

        Raises:
            ExternalError: every one of them failed.
        """
        at_work: dict[str, _Running] = {}
        epochs = self.settings.epochs
        with TrialsTable("tune", self.settings.trials, epochs, study.finished_trials(self.study)) as table:
            while True:
                while self.pool.idle and self.left() > len(at_work):
                    trial, variant = self._next_trial()
                    running = _Running(trial, Task(str(trial.number), variant.model_dump(), epochs, self.settings.seed))
                    at_work[running.task.key] = running
                    self.pool.start(running.task)
                    running.run = self._run_of(trial)
                if not at_work:
                    break
                for task, answer in self.pool.wait(timeout=0.5):
                    running = at_work[task.key]
                    if self._take(running, answer):
                        del at_work[task.key]
                        table.finished(self.study.trials[running.trial.number])
                table.show({key: running.history for key, running in at_work.items()})
                self._beat()
        counted = study.finished_trials(self.study)
        if counted and all(trial.state == TrialState.FAIL for trial in counted):
            first = study.reason(counted[0])
            mend = NEED_LESS_MEMORY if ran_out_of_memory(first) else "mend it"
            all_failed = f"tune: all {len(counted)} trials failed; the first: {first}"
            raise ExternalError(f"{all_failed}; {mend} and raise tune.trials to try others")

    def _beat(self) -> None:
        if time.monotonic() - self.beaten > study.BEAT_EVERY_S:
            study.beat(self.study)
            self.beaten = time.monotonic()

    def _next_trial(self) -> tuple[optuna.Trial, VariantParams]:
        while True:  # the space has been checked: a combination that fits comes before long
            trial = self.study.ask()
            if study.BASELINE_TRIAL in trial.user_attrs:
                values = search_space.inside(self.baseline_values, self.settings.search_space)
                search_space.draw_only(trial, self.settings.search_space, list(values))
                return trial, self.baseline
            variant = search_space.draw(trial, self.settings.search_space, self.baseline.classifier)
            refusal = search_space.misfit(variant, self.meta, self.max_parameters)
            if refusal is None:
                return trial, variant
            study.refuse(self.study, trial, refusal)

    def _take(self, running: "_Running", answer: Epoch | Failure) -> bool:
        """Act on one answer of a worker; whether the trial is finished.

        MLflow is told before the study: a kill in between leaves a trial that is tried again, not a run left open.
        """
        trial, task = running.trial, running.task
        if isinstance(answer, Failure):
            trial.set_user_attr("reason", answer.reason)
            _end_run(running.run, "failed", answer.reason)
            self.study.tell(trial, state=TrialState.FAIL)
            return True
        running.history.append(answer.entry)
        running.trained += answer.seconds
        accuracy = answer.entry["validation_accuracy"]
        trial.report(accuracy, step=len(running.history))
        last = len(running.history) == task.epochs
        pruned = not last and trial.should_prune()
        if not last and not pruned:
            self.pool.go_on(task)  # first, so that the worker does not wait for the database
            running.run.log_epoch(answer.entry)
            return False
        self.pool.end(task)
        running.run.log_epoch(answer.entry)
        trial.set_user_attr("overhead", time.monotonic() - running.started - running.trained)
        _end_run(running.run, "pruned" if pruned else "finished")
        if pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, accuracy)
        return True

    def _run_of(self, trial: optuna.Trial | FrozenTrial) -> Run:
        name = f"trial-{trial.number}"
        return self._open_run(name, name, trial.params)

    def _open_run(self, key: str, name: str, params: dict[str, Any]) -> Run:
        """A run below the study's own; the store may be away."""
        run = Run(self.delivery, self.experiment, f"{self.study.study_name}/{key}")
        run.open(name, self.parent.run_id)
        run.describe(params)
        run.status("RUNNING")
        return run

    def train_finalists(self) -> None:
        """Train the finalists for ``train.epochs``; each result is kept in the study as soon as there is one."""
        waiting = self.finals.left()
        total = len(waiting) * self.params.train.epochs
        at_work: dict[str, tuple[Finalist, int, Run]] = {}
        epochs = 0
        with progress("finalists", total) as reporter:
            while waiting or at_work:
                while waiting and self.pool.idle:
                    finalist, seed = waiting.pop(0)
                    key = self.finals.key(finalist, seed)
                    self.pool.start(Task(key, finalist.variant.model_dump(), self.params.train.epochs, seed))
                    tried = search_space.from_variant(finalist.variant, self.params.train.weight_decay)
                    run = self._open_run(key, f"final-{finalist.name}-{seed}", tried)
                    at_work[key] = (finalist, seed, run)
                for task, answer in self.pool.wait(timeout=0.5):
                    finalist, seed, run = at_work[task.key]
                    if isinstance(answer, Failure):
                        del at_work[task.key]
                        _end_run(run, "failed", answer.reason)
                        if answer.lost or finalist.trial is None:  # no word on the network: the next start tries again
                            raise ExternalError(f"tune: {finalist.name} could not be trained: {answer.reason}")
                        print(f"tune: {finalist.name} failed at full length: {answer.reason}", flush=True)
                        self.study.set_user_attr(task.key, {"reason": answer.reason})
                        continue
                    epochs += 1
                    accuracy = answer.entry["validation_accuracy"]
                    reporter.update(epochs, f"{finalist.name} · validation {accuracy:.2%}")
                    if answer.entry["epoch"] < task.epochs:
                        self.pool.go_on(task)
                        run.log_epoch(answer.entry)
                        continue
                    self.pool.end(task)
                    del at_work[task.key]
                    run.log_epoch(answer.entry)
                    _end_run(run, "finished")
                    self.study.set_user_attr(task.key, {"validation_accuracy": accuracy})
                    print(f"tune: {finalist.name}, training seed {seed}: validation {accuracy:.2%}", flush=True)
                self._beat()

    def choose(self) -> dict[str, Any]:
        """Write the finalist with the best mean at full length as the winner, and what led to it; returns metrics."""
        finalists = {finalist.name: finalist for finalist in self.finals.finalists()}
        results = self.finals.accuracies()
        winner = max(results, key=lambda name: results[name])  # the first of equals, and the baseline comes first

        for picture in save_figures(self.study, PICTURES):
            self.parent.log_file(picture, "study")
        self.parent.log_summary_metrics({f"final_accuracy_{name}": value for name, value in results.items()})
        self.parent.end("FINISHED")

        counted = study.finished_trials(self.study)
        states = {state: sum(trial.state == state for trial in counted) for state in TrialState}
        overheads = [trial.user_attrs["overhead"] for trial in counted if "overhead" in trial.user_attrs]
        metrics = {
            "study": self.study.study_name, "finished": states[TrialState.COMPLETE],
            "pruned": states[TrialState.PRUNED], "failed": states[TrialState.FAIL],
            "overhead_seconds": statistics.median(overheads), "finalists": results, "winner": winner,
        }  # fmt: skip
        origin = Origin(study=self.study.study_name, trial=finalists[winner].trial)
        variant = finalists[winner].variant.model_copy(update={"origin": origin})
        return conclude(variant, self._story(finalists[winner], results), metrics)

    def _story(self, winner: Finalist, results: dict[str, float]) -> list[str]:
        """Where the winner's settings come from, in lines."""
        lines = [f"The baseline network: none of the study {self.study.study_name} was better at full length."]
        if winner.trial is not None:
            trial: FrozenTrial = self.study.trials[winner.trial]
            lines = [f"Trial {winner.trial} of the study {self.study.study_name}, {trial.value:.2%} in its trial:"]
            lines += [f"  {name}: {value}" for name, value in trial.params.items()]
        full = ", ".join(f"{name} {value:.2%}" for name, value in results.items())
        return [*lines, f"Validation accuracy after {self.params.train.epochs} epochs: {full}."]


class _Running:
    """A trial that a worker is training."""

    run: Run

    def __init__(self, trial: optuna.Trial, task: Task):
        self.trial, self.task = trial, task
        self.history: list[dict[str, float]] = []
        self.started, self.trained = time.monotonic(), 0.0


def _end_run(run: Run, state: str, reason: str = "") -> None:
    """Say what became of a trial: ``finished``, ``pruned`` or ``failed`` and why."""
    run.describe(tags={"state": state} | ({"reason": reason} if reason else {}))
    run.status("FAILED" if state == "failed" else "FINISHED")
