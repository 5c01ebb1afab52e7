"""Trained models as the stage train left them, for the stages after it."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.errors import UserError
from pipelines.prepared import load_tensors
from pipelines.state import read_json
from stn.classifiers import Network, build_network

MODELS = Path("models")


class Trained(NamedTuple):
    """One model: a variant trained with one seed. ``history`` has an entry of metrics for each epoch."""

    variant: str
    seed: int
    network: Network
    run_id: str
    history: list[dict]
    record: dict

    @property
    def validation(self) -> dict:
        """The last epoch's metrics; what is chosen is chosen by these."""
        return self.history[-1]


def load_trained(variant: str, meta: dict, folder: Path = MODELS) -> list[Trained]:
    """All models of a variant, one for each training seed, in evaluation mode.

    Raises:
        UserError: the variant has not been trained.
    """
    path = folder / variant / "training.json"
    if not path.exists():
        raise UserError(f"variants: {variant!r} has not been trained here; run: dvc repro train@{variant}")
    record = read_json(path)
    models = []
    for seed, run in record["runs"].items():
        settings = record["variant"]
        network = build_network(
            meta["image_shape"], len(meta["classes"]), settings["transformer"], record["train"]["dropout"],
            settings["classifier"],
        )  # fmt: skip
        network.load_state_dict(load_tensors(folder / variant / f"{seed}.safetensors"))
        models.append(Trained(variant, int(seed), network.eval(), run["run_id"], run["history"], record))
    return models


class Course(NamedTuple):
    """The θ (epochs, E, P) of a few validation images after each epoch; ``images`` (E,) are their indices."""

    images: Tensor
    theta: Tensor


def load_course(model: Trained, folder: Path = MODELS) -> Course:
    """What was kept of a model with a transformer while it was trained."""
    return Course(**load_tensors(folder / model.variant / f"{model.seed}.course.safetensors"))


def best_on_validation(models: list[Trained]) -> Trained:
    """The model with the highest accuracy on the validation images, the lower loss where they are equal.

    Where they were trained on the validation images too (``train.final_fit``), these choose nothing: the first is
    taken.
    """
    if any(model.record["train"]["final_fit"] for model in models):
        return models[0]
    return max(models, key=lambda m: (m.validation["validation_accuracy"], -m.validation["validation_loss"]))


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
