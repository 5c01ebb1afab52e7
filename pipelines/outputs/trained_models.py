"""Trained models as the stage train writes them: ``models/<variant>``, and the metrics and plots of each variant.

A variant's folder contains ``training.json`` with the record of the training and the history of each training seed,
and for each seed ``<seed>.safetensors`` with its weights. With a transformer it also contains
``<seed>.theta_history.safetensors``.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from pipelines.outputs.prepared_data import DatasetMeta, load_tensors
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import read_json, write_json
from pipelines.settings.dotted_names import flatten
from pipelines.settings.metric import Metric
from pipelines.settings.params import TrainParams
from pipelines.settings.variants import VariantParams
from stn.classifiers import Network
from stn.theta_trouble import Trouble

MODELS = Path("models")
METRICS = Path("metrics/train")
PLOTS = Path("plots/train")
Metrics = dict[str, float]  # of one epoch, by name
# Settings of the section train and of a variant that have no effect on the result: they may change before a training is
# resumed.
# The values that a preset gave are settings of their own.
CHANGEABLE_TRAIN = {"max_failures", "preset", "residency", "seeds_at_once"}
CHANGEABLE_VARIANT = {"origin"}


@dataclass(frozen=True)
class TrainingRecord:
    """The settings, data and code of a training, and the machines that it ran on.

    Args:
        variant: the variant's settings.
        train: the section ``train`` of params.yaml.
        data: description of the prepared data.
        git_commit: SHA-1 of the commit; ``none`` outside git, ``unknown`` if git could not tell.
        git_dirty: ``true`` if there were uncommitted changes, else ``false``; ``unknown`` if git could not tell.
        git_diff: the uncommitted changes.
        libraries: version of each library.
        workers, threads: the workers that finished the training, and the CPU threads of each.
        gpu: whether each worker had a GPU.
        device, precision: as reported by the workers; empty before that.
    """

    variant: VariantParams
    train: TrainParams
    data: DatasetMeta
    git_commit: str
    git_dirty: str
    git_diff: str
    libraries: Mapping[str, str]
    workers: int
    threads: int
    gpu: bool
    device: str = ""
    precision: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingRecord":
        """The record in a training.json."""
        parsed = {
            "variant": VariantParams.model_validate(values["variant"]),
            "train": TrainParams.model_validate(values["train"]),
            "data": DatasetMeta.from_json(values["data"]),
        }
        return cls(**{name: value for name, value in values.items() if name != "runs"} | parsed)

    def to_json(self) -> dict[str, Any]:
        """The record as written to training.json and to each run's artifacts in MLflow."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain |= {"variant": self.variant.model_dump(), "train": self.train.model_dump(), "data": self.data.to_json()}
        return {name: value for name, value in plain.items() if value or name not in ("device", "precision")}

    def run_params(self, seed: int) -> dict[str, Any]:
        """MLflow's parameters of the run of one training seed, under dotted names.

        MLflow refuses to change a parameter: settings that may change before a training is resumed are tags.
        """
        train = self.train.model_dump(exclude={"seeds", *CHANGEABLE_TRAIN})
        variant = self.variant.model_dump(exclude=CHANGEABLE_VARIANT)
        return {**flatten({"train": train, "variant": variant}), "train.seed": seed}

    def run_tags(self, variant: str, seed: int) -> dict[str, str]:
        """MLflow's tags of the run of one training seed when it starts."""
        changeable = {
            "train": self.train.model_dump(include=CHANGEABLE_TRAIN),
            "variant": self.variant.model_dump(include=CHANGEABLE_VARIANT),
        }
        tags = {"variant": variant, "seed": str(seed), "data_digest": self.data.digest}
        tags |= {name: str(value) for name, value in flatten(changeable).items()}
        tags |= {name: str(getattr(self, name)) for name in ("git_commit", "git_dirty", "workers", "threads", "gpu")}
        return tags | {f"library.{library}": version for library, version in self.libraries.items()}

    def machine_tags(self) -> dict[str, str]:
        """MLflow's tags that are known when the training is finished."""
        tags = {"device": self.device, "precision": self.precision, "workers": str(self.workers)}
        return {name: value for name, value in tags.items() if value}


def trouble_tags(trouble: Mapping[Trouble, int]) -> dict[str, str]:
    """MLflow's tag ``theta_trouble`` of the run of one training seed; no tag without trouble.

    Args:
        trouble: result of :func:`stn.theta_trouble.first_epochs`.
    """
    text = ", ".join(f"{kind} from epoch {epoch}" for kind, epoch in trouble.items())
    return {"theta_trouble": text} if text else {}


class ThetaHistory(NamedTuple):
    """θ of a few validation images over a training.

    Args:
        images: indices (E,) of the images.
        theta: (epochs, E, P), after each epoch.
    """

    images: Tensor
    theta: Tensor


@dataclass(frozen=True)
class FinishedSeed:
    """The result of training one seed.

    Args:
        weights: the network's tensors.
        history: metrics of each epoch.
        theta_history: None without a transformer.
    """

    weights: Mapping[str, Tensor]
    history: list[Metrics]
    theta_history: ThetaHistory | None


class Trained(NamedTuple):
    """One model: a variant trained with one seed. ``history`` contains the metrics of each epoch."""

    variant: str
    seed: int
    network: Network
    run_id: str
    history: list[Metrics]
    record: TrainingRecord

    @property
    def validation(self) -> Metrics:
        """The last epoch's metrics, which choose among models."""
        return self.history[-1]


def load_trained(variant: str, meta: DatasetMeta, folder: Path = MODELS) -> list[Trained]:
    """Load all models of a variant, one for each training seed, in evaluation mode.

    Raises:
        UserError: the variant has not been trained.
        ExternalError: a file is damaged.
    """
    path = folder / variant / "training.json"
    if not path.exists():
        raise UserError(f"variants: {variant!r} has not been trained here; run: dvc repro train@{variant}")
    values = read_json(path)
    record = TrainingRecord.from_json(values)
    models = []
    for seed, run in values["runs"].items():
        network = meta.network_builder(record.variant, record.train.dropout, load_weights=False)()
        network.load_state_dict(load_tensors(folder / variant / f"{seed}.safetensors"))
        models.append(Trained(variant, int(seed), network.eval(), run["run_id"], run["history"], record))
    return models


def load_theta_history(model: Trained, folder: Path = MODELS) -> ThetaHistory:
    """Load the θ history of a model with a transformer.

    Raises:
        ExternalError: the file is damaged.
    """
    return ThetaHistory(**load_tensors(folder / model.variant / f"{model.seed}.theta_history.safetensors"))


def best_on_validation(models: Sequence[Trained], metric: Metric) -> Trained:
    """The model with the highest metric on the validation images; equal ones are ordered by loss.

    Validation metrics do not compare models that were also trained on the validation images (``train.final_fit``): the
    first model is returned then.

    Raises:
        UserError: models of earlier code have no such metric.
    """
    if any(model.record.train.final_fit for model in models):
        return models[0]
    for model in models:
        if metric.on_validation not in model.validation:
            raise UserError(
                f"evaluate.metric: {metric} given; the models of {model.variant} were trained by earlier code, which "
                f"did not measure it on validation; run: dvc repro train@{model.variant}"
            )
    return max(models, key=lambda m: (m.validation[metric.on_validation], -m.validation["validation_loss"]))


def write_result(
    finished: Mapping[int, FinishedSeed], run_ids: Mapping[int, str], record: TrainingRecord, result: Path
) -> None:
    """Write models, metrics and the history averaged over the seeds to the folder ``result``.

    All files are written to a folder beside it, which is then renamed: ``result`` is never incomplete.

    Raises:
        OSError, SafetensorError: a file cannot be written.
    """
    beside = result.with_name(".result")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "model").mkdir(parents=True)
    for seed, done in finished.items():
        save_file(dict(done.weights), beside / "model" / f"{seed}.safetensors")
        if done.theta_history is not None:
            save_file(done.theta_history._asdict(), beside / "model" / f"{seed}.theta_history.safetensors")
    runs = {str(seed): {"run_id": run_ids[seed], "history": done.history} for seed, done in finished.items()}
    write_json(beside / "model" / "training.json", {**record.to_json(), "runs": runs})
    rows = _mean_history([done.history for done in finished.values()])
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    (beside / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = ("train_loss", "validation_loss", *(metric.on_validation for metric in Metric))
    metrics = {name: rows[-1][name] for name in names if name in rows[-1]}
    speed = float(np.mean([row["images_per_second"] for row in rows]))
    metrics |= {"images_per_second": speed, "workers": record.workers, "threads": record.threads}
    write_json(beside / "metrics.json", metrics)
    beside.rename(result)


def _mean_history(histories: list[list[Metrics]]) -> list[Metrics]:
    """The metrics of each epoch, averaged over the seeds."""
    names = [name for name in histories[0][0] if name != "timestamp"]
    return [
        {name: float(np.mean([metrics[name] for metrics in epoch])) for name in names}
        for epoch in zip(*histories, strict=True)
    ]


def publish_result(result: Path, variant: str) -> Metrics:
    """Copy a finished training's result to the places that dvc.yaml names for a variant; returns its metrics."""
    targets = {
        "model": MODELS / variant,
        "metrics.json": METRICS / f"{variant}.json",
        "history.csv": PLOTS / f"{variant}.csv",
    }
    for name, target in targets.items():
        source = result / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
    return read_json(METRICS / f"{variant}.json")
