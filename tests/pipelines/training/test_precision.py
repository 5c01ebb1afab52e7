"""The precision of a comparison is measured once, and then the same for its trainings, trials and resumptions."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from pipelines.outputs.prepared_data import DatasetMeta, Labeled, TrainingSplits
from pipelines.runtime import home
from pipelines.settings.params import TrainParams, load_params
from pipelines.training import worker
from pipelines.training.messages import EpochDone
from pipelines.training.precision import Precision, load_precision, store_precision
from pipelines.training.trainer import Trainer
from pipelines.training.worker import TrainingJob, TrainingWorker
from stn.classifiers import build_network
from stn.settings import NetworkSettings, Recipe

FP32, BF16 = Precision("float32", "measured"), Precision("bfloat16", "measured")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def train(tmp_path, monkeypatch) -> TrainParams:
    params = load_params(ROOT / "params.yaml")
    monkeypatch.setattr(home, "home", lambda: tmp_path)
    return params.train.model_copy(update={"precision": "auto"})


def test_a_choice_holds_for_all_lengths_and_seeds_of_a_recipe_on_the_same_data(train):
    assert load_precision(train, "digest") is None
    store_precision(train, "digest", BF16)
    store_precision(train, "digest", FP32)  # a second measurement changes nothing
    for change in ({}, {"epochs": 1}, {"seeds": [7]}):
        assert load_precision(train.model_copy(update=change), "digest") == BF16
    assert load_precision(train.model_copy(update={"batch_size": 3}), "digest") is None
    assert load_precision(train, "another digest") is None


def test_a_precision_set_by_hand_needs_no_measurement_and_is_not_stored(train):
    by_hand = train.model_copy(update={"precision": "fp32"})
    store_precision(by_hand, "digest", FP32)
    assert load_precision(train, "digest") is None
    store_precision(train, "digest", BF16)
    assert load_precision(by_hand, "digest") == Precision("float32", "set by hand")


def test_a_training_that_is_resumed_is_not_measured_again(tmp_path, monkeypatch):
    """Not even if the measurement would come out differently, and for its second seed, too."""
    images = torch.randint(256, (12, 1, 20, 20), dtype=torch.uint8)
    split = Labeled(images, torch.arange(12) % 3)
    meta = DatasetMeta("mine", "", ["a", "b", "c"], (1, 20, 20), {}, [0.5], [0.2], {"rotation": 0.0}, {}, {}, "d")
    job = TrainingJob(
        lambda: build_network(NetworkSettings((1, 20, 20), 3)),  # pyright: ignore[reportArgumentType]
        Recipe(2, batch_size=4, lr=0.01), [0, 1], meta, str(tmp_path), keep=2, threads=1,
    )  # fmt: skip

    class Stopped(Exception):
        pass

    class Messages(list):
        def send(self, message) -> None:
            self.append(message)
            if stop and isinstance(message, EpochDone):
                raise Stopped

        send_and_wait = send

    def make_trainer(*arguments, precision, **options) -> Trainer:
        trained.append(precision)
        return Trainer(*arguments, precision=precision, **options)

    trained = []
    monkeypatch.setattr(worker, "Trainer", make_trainer)

    def start() -> list:
        messages = Messages()
        with suppress(Stopped):
            TrainingWorker(job, TrainingSplits([split], split), torch.device("cpu"), messages).run()
        return messages

    stop = True
    monkeypatch.setattr(worker, "measure_precision", lambda *_: BF16)
    assert start()[0].precision == BF16
    stop = False
    monkeypatch.setattr(worker, "measure_precision", lambda *_: FP32)
    resumed = start()
    assert resumed[0].precision == BF16 and resumed[0].resumed == {job.seeds[0]: 1}
    assert trained == [torch.bfloat16] * 3, "the first seed before and after the stop, and the second seed"
