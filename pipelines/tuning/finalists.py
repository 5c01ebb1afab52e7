"""The finals of a study: the best of its trials and the baseline network, trained at full length with fresh seeds."""

import statistics
from typing import NamedTuple

import optuna
from optuna.trial import TrialState

from pipelines.settings.params import Params
from pipelines.settings.variants import BASELINE, VariantParams
from pipelines.tuning import search_space, study


class Finalist(NamedTuple):
    """A network to be trained at full length: ``trial`` is None for the baseline."""

    trial: int | None
    variant: VariantParams

    @property
    def name(self) -> str:
        return BASELINE if self.trial is None else f"trial-{self.trial}"


class Finals:
    """Who is in the finals of a study, and what its attributes say of those trained so far."""

    def __init__(self, opened: optuna.Study, params: Params, baseline: VariantParams):
        self.study, self.baseline = opened, baseline
        self.settings, self.epochs = params.tune, params.train.epochs

    def finalists(self) -> list[Finalist]:
        """The baseline network and the best of the trials, no network twice."""
        found = [Finalist(None, self.baseline)]
        complete = [trial for trial in self.study.trials if trial.state == TrialState.COMPLETE]
        for trial in sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number)):
            if study.BASELINE_TRIAL in trial.user_attrs or len(found) > self.settings.finalists:
                continue
            variant = search_space.to_variant(trial.params, self.baseline.classifier)
            if all(variant != other.variant for other in found):
                found.append(Finalist(trial.number, variant))
        return found

    def left(self) -> list[tuple[Finalist, int]]:
        """Finalists and seeds that have not been trained at full length yet."""
        done = self.study.user_attrs
        pairs = [(finalist, seed) for seed in self.settings.final_seeds for finalist in self.finalists()]
        return [(finalist, seed) for finalist, seed in pairs if self.key(finalist, seed) not in done]

    def key(self, finalist: Finalist, seed: int) -> str:
        """The study's attribute that keeps the result."""
        return f"final {finalist.name} {self.epochs} {seed}"

    def accuracies(self) -> dict[str, float]:
        """The mean validation accuracy of each finalist that did not fail, by its name; the baseline comes first."""
        found: dict[str, float] = {}
        for finalist in self.finalists():
            keys = [self.key(finalist, seed) for seed in self.settings.final_seeds]
            values = [self.study.user_attrs[key].get("validation_accuracy") for key in keys]
            if None not in values:
                found[finalist.name] = statistics.fmean(values)
        return found
