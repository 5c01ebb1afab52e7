"""Finalists of a study: the baseline and the best trials, compared after full-length training with fresh seeds."""

import statistics
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from pipelines.settings.variants import BASELINE, VariantParams
from pipelines.tuning.search_space import to_variant
from pipelines.tuning.setup import TuningSetup
from pipelines.tuning.study import BASELINE_TRIAL


class Finalist(NamedTuple):
    """A variant to train at full length. ``trial`` is the number of its trial, None for the baseline."""

    trial: int | None
    variant: VariantParams

    @property
    def name(self) -> str:
        """``stn`` for the baseline, else ``trial-<number>``."""
        return BASELINE if self.trial is None else f"trial-{self.trial}"


class Final(NamedTuple):
    """One full-length training: a finalist with one training seed."""

    finalist: Finalist
    seed: int


class Finals:
    """Full-length trainings of a study. Each result is an attribute of the study."""

    def __init__(self, study: optuna.Study, setup: TuningSetup):
        self.study, self.setup = study, setup

    def finalists(self) -> list[Finalist]:
        """The baseline and the best ``tune.finalists`` trials; no network appears twice."""
        found = [Finalist(None, self.setup.baseline)]
        complete = [trial for trial in self.study.trials if trial.state == TrialState.COMPLETE]
        for trial in sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number)):
            if BASELINE_TRIAL in trial.user_attrs or len(found) > self.setup.params.tune.finalists:
                continue
            variant = to_variant(trial.params, self.setup.baseline.classifier)
            if all(variant != other.variant for other in found):
                found.append(Finalist(trial.number, variant))
        return found

    def remaining(self) -> list[Final]:
        """Trainings without a result."""
        seeds, results = self.setup.params.tune.final_seeds, self.study.user_attrs
        finals = [Final(finalist, seed) for seed in seeds for finalist in self.finalists()]
        return [final for final in finals if self.key(final) not in results]

    def key(self, final: Final) -> str:
        """Name of the study's attribute that holds the result."""
        return f"final {final.finalist.name} {self.setup.params.train.epochs} {final.seed}"

    def store_score(self, final: Final, score: float) -> None:
        """Store ``evaluate.metric`` of a training on the validation images in the study."""
        self.study.set_user_attr(self.key(final), {self._metric: score})

    def store_failure(self, final: Final, reason: str) -> None:
        """Store in the study that a training failed; it is not tried again."""
        self.study.set_user_attr(self.key(final), {"reason": reason})

    def scores(self) -> dict[str, float]:
        """Mean of ``evaluate.metric`` of each finalist without a failure, by its name; the baseline comes first."""
        means: dict[str, float] = {}
        for finalist in self.finalists():
            keys = [self.key(Final(finalist, seed)) for seed in self.setup.params.tune.final_seeds]
            results: list[dict[str, Any]] = [self.study.user_attrs[key] for key in keys]
            if all(self._metric in result for result in results):
                means[finalist.name] = statistics.fmean(result[self._metric] for result in results)
        return means

    @property
    def _metric(self) -> str:
        return self.setup.params.evaluate.metric.on_validation
