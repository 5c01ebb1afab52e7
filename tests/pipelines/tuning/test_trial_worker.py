"""A worker with several trials: each trains what it trains alone, comes and goes, and fails alone."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.outputs.prepared_data import DatasetMeta, Labeled, TrainingSplits
from pipelines.training import several_trainers
from pipelines.training import trainer as trainer_module
from pipelines.training.precision import Precision
from pipelines.tuning.trial_worker import Epoch, Failure, Task, TrialData, Worker
from stn import NetworkSettings, Recipe, TransformerSettings, build_network
from stn.captured_step import CapturedTraining, run_eagerly
from stn.static_step import StaticStep

FP32 = Precision("float32", "set by hand")
META = DatasetMeta("mine", "", ["a", "b", "c"], (1, 20, 20), {}, [0.5], [0.2], {"rotation": 30.0}, {}, {}, "d")
RECIPE = Recipe(3, batch_size=4, lr=0.01)


@pytest.fixture(autouse=True)
def together(monkeypatch) -> list[int]:
    """Trainers have a static step, which the CPU runs eagerly. The list receives the number of networks of each epoch
    side by side."""

    def static(*arguments, world_size, **options):
        return CapturedTraining(StaticStep(*arguments, **options), run_eagerly), ""

    def counted(epochs, *arguments):
        numbers.append(len(epochs))
        return train(epochs, *arguments)

    numbers, train = [], several_trainers.train_side_by_side
    monkeypatch.setattr(trainer_module, "captured_training", static)
    monkeypatch.setattr(several_trainers, "train_side_by_side", counted)
    return numbers


@pytest.fixture
def make_worker() -> Callable[[], Worker]:
    images = torch.randint(256, (12, 1, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Labeled(images, torch.arange(12) % 3)
    shared: Any = SimpleNamespace(open=lambda: TrainingSplits([split], split))
    return lambda: Worker(RECIPE, TrialData(META, shared, "auto"), 1)


def task(key: str, family: str = "affine", make: Callable | None = None) -> Task:
    settings = NetworkSettings((1, 20, 20), 3, TransformerSettings(transform=(family,)))
    make_network: Any = make or (lambda: build_network(settings))
    return Task(key, make_network, RECIPE, seed=0)


def metrics(answer: Epoch | Failure) -> dict[str, float]:
    """The metrics without those of the clock."""
    assert isinstance(answer, Epoch), answer
    clocks = ("timestamp", "images_per_second", "epoch_seconds")
    return {name: value for name, value in answer.metrics.items() if name not in clocks}


def test_trials_come_and_go_and_each_trains_what_it_trains_alone(make_worker, together):
    affine, tps, late = task("0"), task("1", "tps"), task("2", "projective")
    worker, seen = make_worker(), {"0": [], "1": [], "2": []}
    for tasks in ([affine, tps], [affine, tps], [affine, late], [late], [late]):
        for each, answer in zip(tasks, worker.train_epochs(tasks, FP32), strict=True):
            seen[each.key].append(metrics(answer))
        assert worker.trainers.keys() == {each.key for each in tasks}, "the others have left the memory"
    assert together == [2], "in their first epochs, and without another, trials train alone"
    for each in (affine, tps, late):
        alone = make_worker()
        expected = [metrics(alone.train_epochs([each], FP32)[0]) for _ in seen[each.key]]
        assert seen[each.key] == expected


def test_a_trial_fails_alone(make_worker):
    def broken():
        raise ValueError("no such layer")

    good, bad, nan = task("0"), task("1", make=broken), task("2", "tps")
    worker, alone = make_worker(), make_worker()
    first = worker.train_epochs([good, bad, nan], FP32)
    assert first[1] == Failure("ValueError: no such layer", lost=False)
    assert isinstance(first[2], Epoch) and worker.trainers.keys() == {"0", "2"}
    with torch.no_grad():
        next(worker.trainers["2"].network.classifier.parameters()).fill_(torch.nan)
    second = worker.train_epochs([good, nan], FP32)
    assert isinstance(second[1], Failure) and second[1].reason.startswith("NotFiniteError: the loss")
    assert worker.trainers.keys() == {"0"}
    expected = [metrics(alone.train_epochs([good], FP32)[0]) for _ in range(2)]
    assert [metrics(first[0]), metrics(second[0])] == expected


@pytest.mark.parametrize("broken", [True, False])
def test_a_gpu_that_answers_no_more_ends_all_its_trials(broken, make_worker, monkeypatch):
    """A GPU fails every call after some errors; then the whole call fails, and Ray's worker is replaced."""
    good, bad = task("0"), task("1", make=lambda: 1 / 0)
    worker = make_worker()

    def synchronize() -> None:
        if broken:
            raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(worker, "device", torch.device("cuda"))
    if broken:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            worker.train_epochs([good, bad], FP32)
    else:
        (first, second) = worker.train_epochs([good, bad], FP32)
        assert isinstance(first, Epoch) and second == Failure("ZeroDivisionError: division by zero", lost=False)
