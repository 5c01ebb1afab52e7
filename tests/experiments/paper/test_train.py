"""Training of the paper's networks on a few images: resumption after a kill, the test error, and the addition."""

from dataclasses import asdict, replace

import pytest
import torch

from experiments.paper import training
from experiments.paper.result_files import load_results
from experiments.paper.settings import ADDITION
from experiments.paper.training import load_data, train
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import read_json
from pipelines.training.trainer import Trainer
from stn.training import predict
from tests.experiments.paper.conftest import SPLITS

pytestmark = pytest.mark.usefixtures("folder")


def test_a_killed_training_continues_and_ends_with_the_same_error(params, folder, monkeypatch):
    whole = train("RTS", "ST-FCN-tps", 1, params)
    (path,) = (folder / "results").glob("*/*/*.json")
    assert path == folder / "results/RTS/ST-FCN-tps/1.json" and read_json(path) == asdict(whole)
    path.unlink()
    assert not list((folder / "state/paper").iterdir())

    epochs, train_epoch = [], Trainer.train_epoch

    def killed_in_the_second(trainer, on_step=None):
        epochs.append(trainer.done)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return train_epoch(trainer, on_step)

    monkeypatch.setattr(Trainer, "train_epoch", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train("RTS", "ST-FCN-tps", 1, params)
    assert not path.exists() and len(list((folder / "state/paper").iterdir())) == 1
    places, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: places.append(options) or load(*args, **options))
    again = train("RTS", "ST-FCN-tps", 1, params)
    assert places == [{"map_location": "cpu", "weights_only": True}], "θ of the epochs is kept on the CPU"
    assert epochs == [0, 1, 1, 2]
    assert replace(again, seconds=0) == replace(whole, seconds=0)
    assert train("RTS", "ST-FCN-tps", 2, params).validation_error != whole.validation_error


def test_the_papers_own_schedule_has_results_of_its_own(params, folder):
    long = params.long.model_copy(update={"epochs": 3, "batch_size": 32, "lr": 0.5})
    rates, train_epoch = [], Trainer.train_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", lambda *given: rates.append(given[0].optimizer.param_groups[0]["lr"]) or
                      train_epoch(*given))  # fmt: skip
        result = train("RTS", "CNN", 1, params.model_copy(update={"long": long}), "long")
    assert rates == pytest.approx([0.5, 0.05, 0.005]), "a third of the steps is an epoch here"
    assert result.schedule == "long"
    (path,) = (folder / "results").glob("**/*.json")
    assert path == folder / "results/long/RTS/CNN/1.json" and read_json(path) == asdict(result)
    assert load_results() == [result]


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

    monkeypatch.setattr(training, "predict", predict)
    result = train("RTS", "CNN", 0, params)
    assert result.test_error == 25.0
    assert [len(images) for images in seen] == [SPLITS["test"]]


def test_two_digits_are_added(params):
    meta, (pairs, validation), test = load_data(ADDITION, params.train)
    assert meta.image_shape == (2, 42, 42) and len(meta.classes) == 19
    images, labels = next(pairs.shuffled(32, 0, 0))
    assert images.shape == (32, 2, 42, 42) and labels.max() > 9
    held_out = [torch.cat([labels for _, labels in split.ordered(10)]) for split in (validation, test)]
    assert [len(labels) for labels in held_out] == [32, 64]
    result = train(ADDITION, "2xST-FCN-affine", 0, params)
    assert result.test_images == 64 and 0 <= result.test_error <= 100
    assert result.epochs == 2  # from its overrides; other tasks have 3


def test_missing_data_are_an_error(params):
    with pytest.raises(UserError, match="no prepared data"):
        train("TC", "CNN", 0, params)


def test_every_setting_of_the_recipe_reaches_the_training(params, folder, monkeypatch):
    changes = {"crop": [0.5, 0.9], "color_jitter": 0.3, "mixup": 0.4, "ema": 0.5, "label_smoothing": 0.1}
    changes["distortion_ramp"] = 3
    changed = params.model_copy(update={"train": params.train.model_copy(update=changes)})
    data = load_data("RTS", changed.train)
    augmentation = data.training.training.augmentation
    assert (augmentation.crop, augmentation.color_jitter, augmentation.mixup) == ([0.5, 0.9], 0.3, 0.4)
    for task in ("RTS", "addition"):
        assert load_data(task, changed.train).training.training.augmentation.distortion_ramp == 3
    tested = []
    monkeypatch.setattr(training, "predict", lambda network, images: tested.append(network) or predict(network, images))
    trainers, train_to_end = [], training._train_to_end
    monkeypatch.setattr(training, "_train_to_end", lambda t, *rest: trainers.append(t) or train_to_end(t, *rest))
    train("RTS", "FCN", 1, changed)
    assert trainers[0].recipe.ema == 0.5 and trainers[0].recipe.label_smoothing == 0.1
    assert tested == [trainers[0].average.network]
