"""Values for settings that are null in params.yaml: those of the preset, then those of the data set."""

from typing import Any

from pipelines.settings.dataset_defaults import DATASET_DEFAULTS, OWN_DEFAULTS
from pipelines.settings.train_presets import preset_values


def replace_nulls(values: Any) -> Any:
    """Replace nulls in the content of params.yaml; what is not a section is returned unchanged."""
    if not isinstance(values, dict):
        return values
    data = values.get("data")
    dataset = data.get("dataset") if isinstance(data, dict) else None
    defaults = DATASET_DEFAULTS.get(str(dataset), OWN_DEFAULTS)._asdict()
    filled = dict(values)
    if isinstance(data, dict):
        filled["data"] = _fill(data, defaults)
    if isinstance(train := values.get("train"), dict):
        filled["train"] = _fill(train, {**defaults, **preset_values(train.get("preset"))})
    if isinstance(tune := values.get("tune"), dict) and tune.get("epochs", 0) is None:
        filled["tune"] = tune | {"epochs": defaults["tune_epochs"]}
    return filled


def _fill(section: dict, defaults: dict[str, Any]) -> dict:
    return {name: defaults[name] if value is None and name in defaults else value for name, value in section.items()}
