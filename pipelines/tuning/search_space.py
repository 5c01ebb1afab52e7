"""Search space of params.yaml: draws variants for trials and rejects variants that cannot be trained.

Values are dictionaries by the names of Optuna's parameters: the names of the search space, and for each convolution
layer ``channels_<layer>`` and ``kernel_size_<layer>``, counted from 1.
"""

from typing import Any

import optuna

from pipelines.networks.build import count_parameters
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.runtime.errors import UserError
from pipelines.settings.params import SearchSpaceParams
from pipelines.settings.ranges import FloatRange, IntRange
from pipelines.settings.variants import (
    INPUT,
    BackboneParams,
    ClassifierParams,
    ConvolutionalLocalizationParams,
    VariantParams,
)

DRAWS = 500


def draw(trial: optuna.Trial, space: SearchSpaceParams, classifier: ClassifierParams) -> VariantParams:
    """Draw a variant: the study's sampler suggests each value.

    A layer's values are suggested only if the drawn network has that layer.
    """
    values = {name: _suggest(trial, name, space) for name in _names(space, 0)}
    for name in _names(space, values["layers"]):
        if name not in values:
            values[name] = _suggest(trial, name, space)
    return to_variant(values, classifier)


def draw_only(trial: optuna.Trial, space: SearchSpaceParams, names: list[str]) -> None:
    """Suggest only the values ``names``, so that ``trial`` records no others."""
    for name in names:
        _suggest(trial, name, space)


def to_variant(values: dict[str, Any], classifier: ClassifierParams) -> VariantParams:
    """Convert values to the variant that they describe.

    Args:
        classifier: the classifier, unless the values name a backbone.
    """
    layers = range(1, values["layers"] + 1)
    transformer = {
        "transform": values["transform"],
        "padding_mode": values["padding_mode"],
        "localization": {
            "channels": [values[f"channels_{i}"] for i in layers],
            "kernel_sizes": [values[f"kernel_size_{i}"] for i in layers],
            "hidden": values["hidden"],
            "activation": values["activation"],
            "downsample": values["downsample"],
        },
    }
    at = values.get("at", INPUT)
    placed = {"transformer": transformer} if at == INPUT else {"transformers": [{"at": at, **transformer}]}
    return VariantParams.model_validate(
        {
            **placed,
            "classifier": {"backbone": values["backbone"]} if "backbone" in values else classifier.model_dump(),
            "localization_lr": values["localization_lr"],
            "localization_weight_decay": values["localization_weight_decay"],
            "theta_penalty": values["theta_penalty"],
            "alignment_weight": values.get("alignment_weight"),
        }
    )


def from_variant(variant: VariantParams, weight_decay: float) -> dict[str, Any]:
    """Convert a variant to values, the inverse of :func:`to_variant`.

    Values that no trial can have are left out: a list of hidden layers, and the layers of a localization network that
    is not convolutional.

    Args:
        variant: has a transformer; of several, the first is described.
        weight_decay: the recipe's; used if the variant has none of its own.
    """
    place, transformer = next(iter(variant.all_transformers.items()))
    localization, decay = transformer.localization, variant.localization_weight_decay
    values = {
        "transform": transformer.transform, "padding_mode": transformer.padding_mode, "at": place,
        "activation": localization.activation, "localization_lr": variant.localization_lr,
        "theta_penalty": variant.theta_penalty, "localization_weight_decay": weight_decay if decay is None else decay,
    }  # fmt: skip
    if variant.alignment_weight is not None:
        values["alignment_weight"] = variant.alignment_weight
    if isinstance(variant.classifier, BackboneParams):
        values["backbone"] = variant.classifier.backbone
    if not isinstance(localization, ConvolutionalLocalizationParams):
        return values
    values |= {"downsample": localization.downsample, "layers": len(localization.channels)}
    for i, (channels, kernel) in enumerate(zip(localization.channels, localization.kernel_sizes, strict=True), start=1):
        values |= {f"channels_{i}": channels, f"kernel_size_{i}": kernel}
    if isinstance(localization.hidden, int):
        values["hidden"] = localization.hidden
    return values


def restrict_to_space(values: dict[str, Any], space: SearchSpaceParams) -> dict[str, Any]:
    """Keep the values that lie in the space. Optuna would accept the others too and fit its sampler to them."""
    kept = {}
    for name, value in values.items():
        domain = _domain(name, space)
        if value in domain if isinstance(domain, list) else domain.low <= value <= domain.high:
            kept[name] = value
    return kept


def find_misfit(variant: VariantParams, meta: DatasetMeta, max_parameters: int | None) -> str | None:
    """Return why the variant cannot be trained on this data, or None if it can."""
    try:
        parameters = count_parameters(meta.network_settings(variant))
    except ValueError as error:
        return str(error)
    if max_parameters is not None and parameters > max_parameters:
        return f"{parameters:,} parameters, more than {max_parameters:,}"
    return None


def check_space(
    space: SearchSpaceParams, classifier: ClassifierParams, meta: DatasetMeta, max_parameters: int | None
) -> None:
    """Refuse a space in which no random draw can be trained.

    Raises:
        UserError: none of ``DRAWS`` combinations can be trained; the message gives the reason for the last one.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    misfit = None
    for _ in range(DRAWS):
        misfit = find_misfit(draw(study.ask(), space, classifier), meta, max_parameters)
        if misfit is None:
            return
    raise UserError(f"tune.search_space: none of {DRAWS} combinations can be trained; the last: {misfit}")


def _names(space: SearchSpaceParams, layers: int) -> list[str]:
    """Names of the values that a network with this number of convolution layers has."""
    names = [name for name in SearchSpaceParams.model_fields if getattr(space, name) != []]
    of_layers = [f"{name}_{i}" for i in range(1, layers + 1) for name in ("channels", "kernel_size")]
    return [name for name in names if name not in ("channels", "kernel_size")] + of_layers


def _domain(name: str, space: SearchSpaceParams) -> list | FloatRange:
    stem, _, layer = name.rpartition("_")
    return getattr(space, stem if layer.isdigit() else name)


def _suggest(trial: optuna.Trial, name: str, space: SearchSpaceParams) -> Any:
    domain = _domain(name, space)
    if isinstance(domain, list):
        return trial.suggest_categorical(name, domain)
    if isinstance(domain, IntRange):
        return trial.suggest_int(name, domain.low, domain.high, log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
