"""The search space of params.yaml: how a trial draws a variant from it, and whether the variant may be trained."""

from typing import Any

import optuna
import torch

from pipelines.runtime.errors import UserError
from pipelines.settings.params import SearchSpaceParams
from pipelines.settings.ranges import FloatRange, IntRange
from pipelines.settings.variants import ClassifierParams, VariantParams
from stn.classifiers import build_network

DRAWS = 500


def draw(trial: optuna.Trial, space: SearchSpaceParams, classifier: ClassifierParams) -> VariantParams:
    """The variant that ``trial`` is to train, each of its values suggested by the study's sampler.

    The settings of a layer are suggested only where there is that layer.
    """
    values = {name: _suggest(trial, name, space) for name in _names(0)}
    for name in _names(values["layers"]):
        if name not in values:
            values[name] = _suggest(trial, name, space)
    return to_variant(values, classifier)


def draw_only(trial: optuna.Trial, space: SearchSpaceParams, names: list[str]) -> None:
    """Have only these values suggested, and so recorded, by ``trial``."""
    for name in names:
        _suggest(trial, name, space)


def to_variant(values: dict[str, Any], classifier: ClassifierParams) -> VariantParams:
    """Suggested values as the variant that they describe, in front of this classifier."""
    layers = range(1, values["layers"] + 1)
    return VariantParams.model_validate(
        {
            "transformer": {
                "transform": values["transform"],
                "padding_mode": values["padding_mode"],
                "localization": {
                    "channels": [values[f"channels_{i}"] for i in layers],
                    "kernel_sizes": [values[f"kernel_size_{i}"] for i in layers],
                    "hidden": values["hidden"],
                    "activation": values["activation"],
                    "downsample": values["downsample"],
                },
            },
            "classifier": classifier.model_dump(),
            "localization_lr": values["localization_lr"],
            "localization_weight_decay": values["localization_weight_decay"],
            "theta_penalty": values["theta_penalty"],
        }
    )


def from_variant(variant: VariantParams, weight_decay: float) -> dict[str, Any]:
    """The values that :func:`to_variant` would make ``variant`` of; ``weight_decay`` is the recipe's. What no trial
    can have, several hidden layers, is left out."""
    assert variant.transformer is not None
    localization = variant.transformer.localization
    decay = variant.localization_weight_decay
    values = {
        "transform": variant.transformer.transform, "padding_mode": variant.transformer.padding_mode,
        "downsample": localization.downsample, "layers": len(localization.channels),
        "activation": localization.activation, "localization_lr": variant.localization_lr,
        "localization_weight_decay": weight_decay if decay is None else decay, "theta_penalty": variant.theta_penalty,
    }  # fmt: skip
    for i, (channels, kernel) in enumerate(zip(localization.channels, localization.kernel_sizes, strict=True), start=1):
        values |= {f"channels_{i}": channels, f"kernel_size_{i}": kernel}
    if isinstance(localization.hidden, int):
        values["hidden"] = localization.hidden
    return values


def inside(values: dict[str, Any], space: SearchSpaceParams) -> dict[str, Any]:
    """Those of ``values`` that the space contains. Optuna would take the others, too, and model a space with them."""
    kept = {}
    for name, value in values.items():
        domain = _domain(name, space)
        fits = value in domain if isinstance(domain, list) else domain.low <= value <= domain.high
        if fits:
            kept[name] = value
    return kept


def misfit(variant: VariantParams, meta: dict, max_parameters: int | None) -> str | None:
    """Why the variant cannot be trained on this data, or None where it can."""
    try:
        parameters = count_parameters(variant, meta)
    except ValueError as error:
        return str(error)
    if max_parameters is not None and parameters > max_parameters:
        return f"{parameters:,} parameters, more than {max_parameters:,}"
    return None


def check_space(space: SearchSpaceParams, classifier: ClassifierParams, meta: dict, max_parameters: int | None) -> None:
    """Refuse a space in which, as far as random draws can tell, nothing can be trained.

    Raises:
        UserError: none of DRAWS combinations can be trained; one of the reasons is named.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(DRAWS):
        refusal = misfit(draw(study.ask(), space, classifier), meta, max_parameters)
        if refusal is None:
            return
    raise UserError(f"tune.search_space: none of {DRAWS} combinations can be trained; the last: {refusal}")  # pyright: ignore[reportPossiblyUnboundVariable]


def count_parameters(variant: VariantParams, meta: dict) -> int:
    """The number of parameters of the whole network.

    Raises:
        ValueError: the images are too small for it.
    """
    settings = variant.model_dump()
    with torch.device("meta"):
        network = build_network(
            meta["image_shape"], len(meta["classes"]), settings["transformer"], classifier=settings["classifier"]
        )
    return sum(parameter.numel() for parameter in network.parameters())


def _names(layers: int) -> list[str]:
    of_layers = [f"{name}_{i}" for i in range(1, layers + 1) for name in ("channels", "kernel_size")]
    return [name for name in SearchSpaceParams.model_fields if name not in ("channels", "kernel_size")] + of_layers


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
