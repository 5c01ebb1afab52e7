"""Settings, baseline variant and data of a study: their checks, and the tasks made from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.networks.build import count_parameters
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.runtime.errors import UserError
from pipelines.settings.params import Params, RecipeParams
from pipelines.settings.variants import BASELINE, INPUT, VariantParams, variant_file
from pipelines.training.checks import check_trainable
from pipelines.training.recipe import recipe_of
from pipelines.tuning.search_space import from_variant, restrict_to_space
from pipelines.tuning.study_name import trial_recipe
from pipelines.tuning.trial_worker import Task


@dataclass(frozen=True)
class TuningSetup:
    """Everything that a study is made from.

    Args:
        params: all settings.
        baseline: variant that tuning has to beat; it has a transformer.
        meta: description of the prepared data.
    """

    params: Params
    baseline: VariantParams
    meta: DatasetMeta

    @cached_property
    def max_parameters(self) -> int | None:
        """Largest number of parameters of a trial's network; None means no limit."""
        limit = self.params.tune.max_parameters
        if isinstance(limit, int):
            return limit
        return count_parameters(self.meta.network_settings(self.baseline)) if limit == BASELINE else None

    @cached_property
    def baseline_values(self) -> dict[str, Any]:
        """The baseline's values that lie in the search space, by the names of Optuna's parameters."""
        values = from_variant(self.baseline, self.params.train.weight_decay)
        return restrict_to_space(values, self.params.tune.search_space)

    def trial_task(self, key: str, variant: VariantParams) -> Task:
        """Task that trains a trial's variant for ``tune.epochs`` with the seed ``tune.seed``."""
        return self._task(key, variant, trial_recipe(self.params), self.params.tune.seed)

    def final_task(self, key: str, variant: VariantParams, seed: int) -> Task:
        """Task that trains a finalist's variant for ``train.epochs``."""
        return self._task(key, variant, self.params.train, seed)

    def _task(self, key: str, variant: VariantParams, train: RecipeParams, seed: int) -> Task:
        make_network = self.meta.network_builder(variant, train.dropout)
        return Task(key, make_network, recipe_of(train, variant), seed)


def check_setup(setup: TuningSetup) -> None:
    """Refuse settings that cannot be tuned on the prepared data.

    Raises:
        UserError: the settings do not fit the data, or the baseline has no transformer.
    """
    # Validation images choose the winner. Trials are never trained on them, even with train.final_fit.
    train = setup.params.train.model_copy(update={"final_fit": False})
    check_trainable(BASELINE, setup.params.model_copy(update={"train": train}), setup.baseline, setup.meta)
    if setup.baseline.front is None:
        raise UserError(f"{variant_file(BASELINE)}: no transformer at {INPUT!r} given; there is nothing to tune")
