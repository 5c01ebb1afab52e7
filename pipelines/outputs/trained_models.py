"""Trained models as the stage train left them, for the stages after it."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.outputs.prepared_data import load_tensors
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import read_json, write_json
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


class ThetaHistory(NamedTuple):
    """The θ (epochs, E, P) of a few validation images after each epoch; ``images`` (E,) are their indices."""

    images: Tensor
    theta: Tensor


def load_theta_history(model: Trained, folder: Path = MODELS) -> ThetaHistory:
    """What was kept of a model with a transformer while it was trained."""
    return ThetaHistory(**load_tensors(folder / model.variant / f"{model.seed}.course.safetensors"))


def best_on_validation(models: list[Trained]) -> Trained:
    """The model with the highest accuracy on the validation images, the lower loss where they are equal.

    Where they were trained on the validation images too (``train.final_fit``), these choose nothing: the first is
    taken.
    """
    if any(model.record["train"]["final_fit"] for model in models):
        return models[0]
    return max(models, key=lambda m: (m.validation["validation_accuracy"], -m.validation["validation_loss"]))


def write_result(finished: dict, run_ids: dict[int, str], record: dict, result: Path) -> None:
    """Models, metrics and the mean history over the seeds, written beside the place and then moved there whole."""
    beside = result.with_name(".result")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "model").mkdir(parents=True)
    for seed, done in finished.items():
        save_file(done["weights"], beside / "model" / f"{seed}.safetensors")
        if done["course"]:
            course = {"images": done["watched"], "theta": torch.stack(done["course"])}
            save_file(course, beside / "model" / f"{seed}.course.safetensors")
    histories = [done["history"] for done in finished.values()]
    names = [name for name in histories[0][0] if name != "timestamp"]
    rows = [
        {name: float(np.mean([entry[name] for entry in entries])) for name in names}
        for entries in zip(*histories, strict=True)
    ]
    recorded = {str(seed): {"run_id": run_ids[seed], "history": done["history"]} for seed, done in finished.items()}
    write_json(beside / "model" / "training.json", {**record, "runs": recorded})
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    (beside / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    metrics = {name: rows[-1][name] for name in ("train_loss", "validation_loss", "validation_accuracy")}
    speed = float(np.mean([row["images_per_second"] for row in rows]))
    metrics |= {"images_per_second": speed, "workers": record["workers"], "threads": record["threads"]}
    write_json(beside / "metrics.json", metrics)
    beside.rename(result)
