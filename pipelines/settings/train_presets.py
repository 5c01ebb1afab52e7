"""Presets of the section ``train``: values for settings that are null in params.yaml."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Values of one preset, and a sentence about where it suits."""

    suits: str
    values: Mapping[str, Any]


# Common to networks with normalization layers.
_ADAMW = {
    "shift": 0, "optimizer": "adamw", "warmup": 0.1, "decay_norms": False, "label_smoothing": 0.1,
}  # fmt: skip
# All presets give the settings of OF_EVERY_PRESET. What a preset does not give comes from the data set's defaults.
PRESETS = {
    "small": Preset(
        "Suits networks of up to some 100,000 parameters, such as plain and stn; its values were chosen by the "
        "experiments in LOG.md.",
        {
            "optimizer": "muon", "warmup": 0.2, "weight_decay": 0.0005, "decay_norms": True, "label_smoothing": 0.0,
            "layer_decay": 1.0,
            "crop": [1.0, 1.0], "color_jitter": 0.0, "mixup": 0.0, "ema": 0.0,
        },
    ),
    "from_scratch": Preset(
        "Suits networks of millions of parameters that start from random weights, on tens of thousands of images or "
        "more; its values are common practice and were not measured in this project.",
        {
            **_ADAMW, "epochs": 60, "batch_size": 128, "lr": 0.002, "weight_decay": 0.05, "layer_decay": 1.0,
            "crop": [0.5, 1.0], "color_jitter": 0.2, "mixup": 0.2, "ema": 0.999,
        },
    ),
    "finetune": Preset(
        "Suits networks that start from pretrained weights, also on a few hundred images; its values are common "
        "practice and were not measured in this project.",
        {
            **_ADAMW, "epochs": 15, "batch_size": 32, "lr": 0.0003, "weight_decay": 0.01, "layer_decay": 0.75,
            "crop": [0.7, 1.0], "color_jitter": 0.1, "mixup": 0.0, "ema": 0.0,
        },
    ),
}  # fmt: skip
OF_EVERY_PRESET = tuple(PRESETS["small"].values)


def preset_values(name: Any) -> Mapping[str, Any]:
    """The values of a preset, by default those of ``small``; so a wrong name is the only mistake that is reported."""
    return {} if name == "none" else PRESETS.get(str(name), PRESETS["small"]).values
