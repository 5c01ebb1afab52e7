"""The precision of a comparison: chosen once by a measurement, then the same for every variant, trial and resumption.

A measurement may come out differently the next time. Its result is therefore kept in the checkpoints of a training, and
in the state folder for the trainings that it is compared with.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from pipelines.runtime import environment
from pipelines.runtime.files import read_json, write_json
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import key_of
from pipelines.settings.params import TrainParams
from pipelines.settings.recipe import RecipeParams
from pipelines.training.trainer import TrainingData
from stn.captured_step import reason_against_capture_with
from stn.classifiers import Network
from stn.precision import choose_precision, measure_speedup
from stn.settings import Recipe


class Precision(NamedTuple):
    """A chosen precision.

    Args:
        dtype: torch's name of the dtype of autocast, ``float32`` or ``bfloat16``.
        reason: why it was chosen.
    """

    dtype: str
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of autocast."""
        return getattr(torch, self.dtype)


def measure_precision(
    recipe: Recipe, make_network: "partial[Network]", data: TrainingData, world_size: int = 1
) -> Precision:
    """Choose the precision of a network on the device of ``data``, timed with a rank's share of a batch."""

    def measure() -> float:
        images, labels = next(data.training.ordered(max(2, recipe.batch_size // world_size)))
        captured = recipe.capture != "off" and not reason_against_capture_with(data.training, world_size)
        return measure_speedup(make_network, images, labels, captured=captured)

    return _name(*choose_precision(recipe.precision, data.training.device, measure))


def load_precision(train: TrainParams, data_digest: str) -> Precision | None:
    """The precision that is known without a measurement: set by hand, or stored for a comparison. None: neither."""
    if train.precision != "auto":
        return _name(*choose_precision(train.precision, torch.device("cpu")))
    file = _file(train, data_digest)
    return Precision(**read_json(file)) if file.exists() else None


def store_precision(train: TrainParams, data_digest: str, precision: Precision) -> None:
    """Store the choice of ``train.precision: auto`` for a comparison, unless there is one already."""
    file = _file(train, data_digest)
    if train.precision == "auto" and not file.exists():
        write_json(file, precision._asdict())


def _name(dtype: torch.dtype, reason: str) -> Precision:
    return Precision(str(dtype).removeprefix("torch."), reason)


def _file(train: TrainParams, data_digest: str) -> Path:
    """The file of all trainings with this recipe on these data and this kind of machine."""
    recipe = train.model_dump(include=RecipeParams.model_fields.keys() - {"epochs", "precision"})
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    instructions = sorted(name for name, has in getattr(torch.cpu, "get_capabilities", dict)().items() if has is True)
    machine = [instructions, gpus, environment.get("RAY_ADDRESS"), torch.__version__]
    return state_dir("precision") / f"{key_of(recipe, data_digest, machine)}.json"
