"""What optuna-dashboard needs to show the study of params.yaml."""

import json
from pathlib import Path

from pipelines.outputs.prepared_data import load_meta
from pipelines.runtime.errors import UserError
from pipelines.settings.params import Params
from pipelines.settings.variants import VariantParams
from pipelines.tuning.study import location
from pipelines.tuning.study_name import study_name


def dashboard_config(params: Params, baseline: VariantParams) -> str:
    """Configuration file of optuna-dashboard for the study of params.yaml.

    Raises:
        UserError: the study does not exist yet.
    """
    place = location(study_name(params, baseline, load_meta())[0])
    if "://" not in place and not Path(place).exists():
        raise UserError(f"{place}: there is no such study yet; run: make tune")
    return f"[optuna_dashboard]\nstorage = {json.dumps(place)}"
