"""MLflow runs of a study: a parent run, and below it one run for each trial and each finalist."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial

from pipelines.settings.dotted_names import flatten
from pipelines.tracking.client import Dataset, TrainingRun, experiment_id
from pipelines.tracking.lineage import current_commit
from pipelines.tracking.outbox import Outbox, Run
from pipelines.tuning.finalists import Final
from pipelines.tuning.search_space import from_variant
from pipelines.tuning.setup import TuningSetup
from pipelines.tuning.study_name import trial_recipe

# Settings of the section tune that never change within a study. MLflow's parameters cannot be changed: the others are
# logged as tags.
FIXED = {"search_space", "max_parameters", "epochs", "seed"}


@dataclass(frozen=True)
class ChildRun:
    """Run of a trial or a finalist; all updates go through the outbox, so the store may be unreachable.

    Args:
        run: the run in MLflow, which need not exist yet.
        name: its name in MLflow.
        parent_id: run id of the study's run.
        params: MLflow's parameters.
    """

    run: Run
    name: str
    parent_id: str
    params: Mapping[str, Any]

    def start(self) -> None:
        """Create the run if it is missing, log its parameters and mark it as running."""
        self.run.open(self.name, self.parent_id)
        self.run.describe(dict(self.params))
        self.run.status("RUNNING")

    def log_epoch(self, metrics: dict[str, float]) -> None:
        """Log the metrics of one epoch."""
        self.run.log_epoch(metrics)

    def end(self, state: Literal["finished", "pruned", "failed"], reason: str = "") -> None:
        """Log the outcome, with the reason of a failure, and end the run."""
        self.run.describe(tags={"state": state} | ({"reason": reason} if reason else {}))
        self.run.status("FAILED" if state == "failed" else "FINISHED")


class StudyRuns:
    """Finds or creates the parent run of a study, logs what the study is made from, and makes the child runs."""

    def __init__(self, outbox: Outbox, study_name: str, setup: TuningSetup):
        self.outbox, self.study_name, self.setup = outbox, study_name, setup
        meta, commit = setup.meta, current_commit()
        self.experiment = experiment_id(outbox.client, f"stn-{meta.dataset}")
        self.parent = TrainingRun(outbox, self.experiment, study_name, f"tune-{meta.dataset}")
        fixed = setup.params.tune.model_dump(include=FIXED)
        recipe = trial_recipe(setup.params).model_dump(exclude={"epochs"})  # logged as tune.epochs
        changeable = flatten({"tune": setup.params.tune.model_dump(exclude=FIXED)})
        tags = {name: str(value) for name, value in changeable.items()}
        tags["evaluate.metric"] = str(setup.params.evaluate.metric)
        tags |= commit.tags | {"data_digest": meta.digest, "study": study_name}
        dataset = Dataset(meta.dataset, meta.digest, meta.source)
        self.parent.describe_now(flatten({"tune": fixed, "train": recipe}), tags, dataset, commit.diff)

    def trial_run(self, trial: optuna.Trial | FrozenTrial) -> ChildRun:
        """Run of a trial, not started yet."""
        name = f"trial-{trial.number}"
        return self._child(name, name, trial.params)

    def final_run(self, key: str, final: Final) -> ChildRun:
        """Run of a finalist with one seed, not started yet; ``key`` is unique within the study."""
        values = from_variant(final.finalist.variant, self.setup.params.train.weight_decay)
        return self._child(key, f"final-{final.finalist.name}-{final.seed}", values)

    def _child(self, key: str, name: str, params: Mapping[str, Any]) -> ChildRun:
        run = Run(self.outbox, self.experiment, f"{self.study_name}/{key}")
        return ChildRun(run, name, self.parent.run_id, params)

    def finish(self, pictures: list[Path], scores: Mapping[str, float]) -> None:
        """Log the study's pictures and the finalists' ``evaluate.metric`` to the parent run and end it."""
        for picture in pictures:
            self.parent.log_file(picture, "study")
        metric = self.setup.params.evaluate.metric
        self.parent.log_summary_metrics({f"final_{metric}_{name}": value for name, value in scores.items()})
        self.parent.end("FINISHED")
