"""Data and settings of trainings on a few images."""

import pytest
import torch
from safetensors.torch import save_file

from experiments.paper import result_files, training
from experiments.paper.settings import load_params
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.runtime.files import write_json

SPLITS = {"train": 96, "validation": 32, "test": 64}


@pytest.fixture
def params():
    given = load_params()
    recipe = {"epochs": 3, "batch_size": 32, "precision": "fp32"}
    own = given.overrides.addition.model_validate({"epochs": 2, "bound": 0.5, "distortion_ramp": 1})
    overrides = given.overrides.model_copy(update={"addition": own})
    return given.model_copy(update={"train": given.train.model_copy(update=recipe), "overrides": overrides})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A temporary folder with prepared data for RTS: bright squares, whose row on the canvas is their class."""
    monkeypatch.setattr(training, "FOLDER", tmp_path)
    monkeypatch.setattr(result_files, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    data = tmp_path / "data" / "RTS"
    meta = DatasetMeta(
        dataset="mnist", source="memory", image_shape=(1, 42, 42), classes=[str(digit) for digit in range(10)],
        counts=SPLITS, mean=[0.1], std=[0.3], duplicates={}, broken={}, digest="0" * 64,
        distortion={"protocol": "RTS", "rotation": 0, "scale": [1, 1], "shift": 0, "padding_mode": "zeros"},
    )  # fmt: skip
    write_json(data / "meta.json", meta.to_json())
    for name, count in SPLITS.items():
        labels = torch.arange(count) % 10
        images = torch.zeros(count, 1, 42, 42, dtype=torch.uint8)
        for i, label in enumerate(labels):
            images[i, 0, 7 + 2 * label : 14 + 2 * label, 18:25] = 255
        save_file({"images": images, "labels": labels}, data / f"{name}.safetensors")
    return tmp_path
