"""The precision of a comparison is measured once, and then the same for its trainings, trials and resumptions."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.outputs.prepared_data import DatasetMeta, Labeled, TrainingSplits
from pipelines.runtime import home
from pipelines.settings.params import TrainParams, load_params
from pipelines.training import precision, worker
from pipelines.training.messages import EpochDone
from pipelines.training.precision import Precision, load_precision, measure_precision, store_precision
from pipelines.training.trainer import Trainer, TrainingData
from pipelines.training.worker import TrainingJob, TrainingWorker
from stn import captured_step
from stn.batches import Batches
from stn.classifiers import build_network
from stn.pixels import Residency
from stn.settings import NetworkSettings, Normalization, Recipe

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


@pytest.mark.parametrize(
    ("change", "on_device", "world_size", "captured"),
    [({}, True, 1, True), ({"capture": "off"}, True, 1, False), ({}, False, 1, False), ({}, True, 2, False)],
)
def test_passes_are_captured_where_steps_are(change, on_device, world_size, captured, monkeypatch):
    asked = []
    images = torch.randint(256, (12, 1, 20, 20), dtype=torch.uint8)
    batches = Batches(
        images, torch.arange(12) % 3, Normalization([0.5], [0.2]), torch.device("cpu"), residency=Residency(on_device)
    )
    reason = captured_step.reason_against_capture
    monkeypatch.setattr(captured_step, "reason_against_capture", lambda _, size: reason(torch.device("cuda"), size))
    monkeypatch.setattr(precision, "measure_speedup", lambda *_, captured: asked.append(captured) or 1.0)
    monkeypatch.setattr(precision, "choose_precision", lambda *given: (torch.float32, str(given[-1]())))
    recipe = replace(Recipe(2, batch_size=4, lr=0.01, precision="auto"), **change)
    measure_precision(recipe, lambda: None, TrainingData(batches, batches), world_size)  # pyright: ignore
    assert asked == [captured]


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
