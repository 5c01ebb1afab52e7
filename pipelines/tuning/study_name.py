"""The name of a study, from everything that its results depend on."""

from pipelines.networks.own_networks import own_code
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.runtime.keys import digest_code, key_of
from pipelines.settings.metric import Metric
from pipelines.settings.params import Params, RecipeParams
from pipelines.settings.variants import BASELINE, VariantParams, variant_file

# The code that a trial's result depends on. It includes only those modules of training/ that a trial runs.
TRIAL_CODE = (
    "stn", "pipelines/networks", "pipelines/outputs/prepared_data.py", "pipelines/training/trainer.py",
    "pipelines/outputs/labeled_files.py", "pipelines/training/ranks.py", "pipelines/training/batches.py",
    "pipelines/training/recipe.py", "pipelines/training/precision.py", "pipelines/training/several_trainers.py",
)  # fmt: skip


def study_name(params: Params, baseline: VariantParams, meta: DatasetMeta) -> tuple[str, dict[str, str]]:
    """Return the study's name and the digest of each part it is made from; a change in any part starts a new study."""
    parts = {
        "tune.search_space": key_of(params.tune.search_space.model_dump(), params.tune.max_parameters),
        "the recipe of a trial": key_of(trial_recipe(params).model_dump(), params.tune.seed),
        str(variant_file(BASELINE)): key_of(baseline.model_dump()),
        "the prepared data": meta.digest,
        "the code of a trial": digest_code(*TRIAL_CODE, *own_code(baseline.classifier)),
    }
    if params.evaluate.metric != Metric.ACCURACY:  # left out so that studies of earlier code keep their names
        parts["evaluate.metric"] = params.evaluate.metric
    return f"stn-{meta.dataset}-{key_of(parts)}", parts


def trial_recipe(params: Params) -> RecipeParams:
    """Recipe of every trial: that of the section ``train``, for ``tune.epochs``."""
    recipe = params.train.model_dump(include=set(RecipeParams.model_fields))
    return RecipeParams.model_validate({**recipe, "epochs": params.tune.epochs})
