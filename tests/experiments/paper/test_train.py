"""Training one of the paper's networks: killed and gone on with, and the addition of digits, on a few images."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from experiments.paper import train
from experiments.paper.settings import ADDITION, load_params
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import read_json, write_json

SPLITS = {"train": 96, "validation": 32, "test": 64}


@pytest.fixture
def params():
    given = load_params()
    recipe = {"epochs": 3, "batch_size": 32, "precision": "fp32"}
    own = given.overrides.addition.model_validate({"epochs": 2, "bound": 0.5})
    overrides = given.overrides.model_copy(update={"addition": own})
    return given.model_copy(update={"train": given.train.model_copy(update=recipe), "overrides": overrides})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A place of its own, with a few bright squares as RTS: their row on the canvas is what tells the classes apart."""
    monkeypatch.setattr(train, "FOLDER", tmp_path)
    monkeypatch.setattr(train, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    data = tmp_path / "data" / "RTS"
    meta: dict[str, Any] = {
        "dataset": "mnist", "image_shape": [1, 42, 42], "classes": [str(digit) for digit in range(10)],
        "counts": SPLITS, "mean": [0.1], "std": [0.3], "digest": "0" * 64,
        "distortion": {"protocol": "RTS", "rotation": 0, "scale": [1, 1], "shift": 0, "padding_mode": "zeros"},
    }  # fmt: skip
    for name, count in SPLITS.items():
        labels = torch.arange(count) % 10
        images = torch.zeros(count, 1, 42, 42, dtype=torch.uint8)
        for i, label in enumerate(labels):
            images[i, 0, 7 + 2 * label : 14 + 2 * label, 18:25] = 255
        write_json(data / "meta.json", meta)
        save_file({"images": images, "labels": labels}, data / f"{name}.safetensors")
    return tmp_path


def test_a_killed_run_goes_on_and_ends_with_the_same_error(params, folder, monkeypatch):
    whole = train.train("RTS", "ST-FCN-tps", 1, params)
    (path,) = (folder / "results").glob("*/*/*.json")
    assert path == folder / "results/RTS/ST-FCN-tps/1.json" and read_json(path) == whole
    path.unlink()
    assert not list((folder / "state/paper").iterdir())

    epochs, fit_epoch = [], train.Trainer.epoch

    def killed_in_the_second(fit, on_step=None):
        epochs.append(fit.done)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return fit_epoch(fit, on_step)

    monkeypatch.setattr(train.Trainer, "epoch", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train.train("RTS", "ST-FCN-tps", 1, params)
    assert not path.exists() and len(list((folder / "state/paper").iterdir())) == 1
    again = train.train("RTS", "ST-FCN-tps", 1, params)
    assert epochs == [0, 1, 1, 2]
    assert again | {"seconds": 0} == whole | {"seconds": 0}
    assert train.train("RTS", "ST-FCN-tps", 2, params)["validation_error"] != whole["validation_error"]


def test_the_error_is_that_of_the_test_images(params, monkeypatch):
    seen = []

    def predict(network, batches, *_):
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        seen.append(images)
        wrong = torch.zeros(len(labels), 10)
        wrong[torch.arange(len(labels)), labels] = 1.0
        wrong[: len(labels) // 4, :] = 0.0
        wrong[: len(labels) // 4] += (torch.arange(10) == (labels[: len(labels) // 4, None] + 1) % 10) * 1.0
        return wrong, labels, None

    monkeypatch.setattr(train, "predict", predict)
    result = train.train("RTS", "CNN", 0, params)
    assert result["test_error"] == 25.0
    assert [len(images) for images in seen] == [SPLITS["test"]]


def test_two_digits_are_added(params):
    meta, training, validation, test = train.load_data(ADDITION, params.train.model_dump())
    assert meta["image_shape"] == [2, 42, 42] and len(meta["classes"]) == 19
    images, labels = next(training.shuffled(32, 0, 0))
    assert images.shape == (32, 2, 42, 42) and labels.max() > 9
    held_out = [torch.cat([labels for _, labels in split.ordered(10)]) for split in (validation, test)]
    assert [len(labels) for labels in held_out] == [32, 64]
    result = train.train(ADDITION, "2xST-FCN-affine", 0, params)
    assert result["test_images"] == 64 and 0 <= result["test_error"] <= 100
    assert result["epochs"] == 2  # its own, where other tasks have 3


def test_without_data_it_says_so(params):
    with pytest.raises(UserError, match="no prepared data"):
        train.train("TC", "CNN", 0, params)
