"""The key of a training, and the parameters of its MLflow runs, which a resumed training logs again."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.trained_models import TrainingRecord
from pipelines.settings.params import TrainParams, load_params
from pipelines.settings.recipe import AlignmentParams
from pipelines.settings.variants import (
    ConvClassifierParams,
    ConvolutionalLocalizationParams,
    Origin,
    PlacedTransformerParams,
    VariantParams,
    load_variant,
)
from pipelines.settings.workers import WorkerRange
from pipelines.training.run import training_key

ROOT = Path(__file__).resolve().parents[3]
# A value that differs from params.yaml; for a choice, all values, since one of them differs.
OF_TRAIN: dict[str, Any] = {
    "epochs": 77, "batch_size": 99, "optimizer": ("sgd", "muon", "adamw"), "lr": 0.123, "warmup": 0.123,
    "schedule": ("one_cycle", "thirds"),
    "momentum": 0.123,
    "weight_decay": 0.123, "decay_norms": (True, False), "layer_decay": 0.123, "max_grad_norm": 0.123, "dropout": 0.123,
    "label_smoothing": 0.123, "class_weights": ("none", "balanced"), "sampler": ("uniform", "balanced"),
    "flip": (True, False), "vertical_flip": (True, False), "shift": 33, "crop": [0.123, 0.5], "color_jitter": 0.123,
    "mixup": 0.123, "distortion_ramp": 77, "ema": 0.123, "alignment": AlignmentParams(weight=0.123),
    "precision": ("fp32", "bf16"), "preset": ("none", "finetune"), "seeds": [77],
    "final_fit": (True, False), "workers": WorkerRange(min=1, max=77), "threads": 77, "max_failures": 77,
    "seeds_at_once": 77, "residency": ("device", "host"), "capture": ("on", "off"),
}  # fmt: skip
PLACED = PlacedTransformerParams(
    at="conv2",
    padding_mode="border",
    localization=ConvolutionalLocalizationParams(channels=[], kernel_sizes=[], hidden=8),
)
OF_VARIANT: dict[str, Any] = {
    "transformer": None, "transformers": [PLACED], "classifier": ConvClassifierParams(hidden=[77]),
    "localization_lr": 0.123, "localization_weight_decay": 0.123, "theta_penalty": 0.123,
    "alignment_weight": 0.123,
    "origin": Origin(study="another", trial=7),
}  # fmt: skip


def record(train: TrainParams, variant: VariantParams) -> TrainingRecord:
    meta = DatasetMeta(
        dataset="tiny", source="", classes=["a"], image_shape=(1, 8, 8), counts={}, mean=[0.5], std=[0.5],
        distortion={}, duplicates={}, broken={}, digest="d",
    )  # fmt: skip
    return TrainingRecord(
        variant=variant, train=train, data=meta, git_commit="none", git_dirty="false", git_diff="",
        libraries={"torch": "2"}, workers=1, threads=1, gpu=False,
    )  # fmt: skip


def test_every_setting_has_another_value_here():
    assert OF_TRAIN.keys() == TrainParams.model_fields.keys()
    assert OF_VARIANT.keys() == VariantParams.model_fields.keys()


def test_the_key_of_a_network_of_ones_own_holds_its_code(monkeypatch):
    own, plain = (
        VariantParams.model_validate({"transformer": None, "classifier": classifier})
        for classifier in ({"module": "own_networks.small_resnet:build"}, {})
    )
    before = [training_key(load_params().train, variant, "d") for variant in (own, plain)]
    file = ROOT / "own_networks/small_resnet.py"
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"edited" if path == file else path.open("rb").read())
    after = [training_key(load_params().train, variant, "d") for variant in (own, plain)]
    assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.parametrize("name", [*OF_TRAIN, *OF_VARIANT])
def test_a_setting_changes_the_key_or_no_parameter_of_a_run(name):
    """MLflow refuses a parameter that has another value: a training with raised max_failures could not be resumed."""
    train, variant = load_params().train, load_variant("stn")
    other_train, other_variant = train, variant
    if name in OF_TRAIN:
        value = OF_TRAIN[name]
        if isinstance(value, tuple):
            value = next(other for other in value if other != getattr(train, name))
        other_train = train.model_copy(update={name: value})
    else:
        other_variant = variant.model_copy(update={name: OF_VARIANT[name]})
    before, after = record(train, variant), record(other_train, other_variant)
    same_key = training_key(train, variant, "d") == training_key(other_train, other_variant, "d")
    assert same_key == (name in ("max_failures", "preset", "residency", "seeds_at_once", "origin"))
    assert (before.run_params(0) == after.run_params(0)) == (same_key or name == "seeds")
    if same_key:
        assert before.run_tags("stn", 0) != after.run_tags("stn", 0)


def test_the_key_depends_on_the_data():
    train, variant = load_params().train, load_variant("stn")
    assert training_key(train, variant, "d") != training_key(train, variant, "e")


def test_what_the_runs_of_a_training_show():
    train, variant = load_params().train, load_variant("stn")
    shown = record(train, variant)
    assert shown.run_params(3)["train.seed"] == 3 and "train.seeds" not in shown.run_params(3)
    assert shown.run_params(3)["variant.transformer.localization.hidden"] == 32
    tags = shown.run_tags("stn", 3)
    assert tags["train.max_failures"] == str(train.max_failures) and tags["variant.origin"] == "None"
    assert (tags["seed"], tags["variant"], tags["data_digest"], tags["library.torch"]) == ("3", "stn", "d", "2")
    assert shown.machine_tags() == {"workers": "1"}
