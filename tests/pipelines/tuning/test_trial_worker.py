"""A worker with several trials: each trains what it trains alone, comes and goes, and fails alone."""

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.outputs.prepared_data import DatasetMeta, Labeled, TrainingSplits
from pipelines.training import several_trainers
from pipelines.training import trainer as trainer_module
from pipelines.training.precision import Precision
from pipelines.training.trainer import Trainer, finish_epoch
from pipelines.tuning.trial_worker import Epoch, Failure, Task, TrialData, Worker
from stn import NetworkSettings, Recipe, TransformerSettings, build_network
from stn.captured_step import CapturedTraining, run_eagerly
from stn.static_step import StaticStep
from stn.training import NotFiniteError

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


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), NotFiniteError("the loss became nan")])
def test_a_trial_fails_alone(error, make_worker, monkeypatch):
    good, late, bad = task("0"), task("1"), task("2", "tps")
    worker, alone = make_worker(), make_worker()
    answers = [worker.train_epochs([good, bad], FP32)]
    broken = weakref.ref(worker.trainers["2"])

    def measure(trainer: Trainer, *arguments):
        if trainer is broken():
            raise error
        return finish_epoch(trainer, *arguments)

    monkeypatch.setattr(several_trainers, "finish_epoch", measure)
    answers.append(worker.train_epochs([good, bad], FP32))
    assert answers[1][1] == Failure(f"{type(error).__name__}: {error}", lost=False, shared=False)
    assert worker.trainers.keys() == {"0"} and broken() is None, "its memory is free again"
    answers.append(worker.train_epochs([good, late], FP32))
    assert isinstance(answers[2][1], Epoch)
    expected = [metrics(alone.train_epochs([good], FP32)[0]) for _ in range(3)]
    assert [metrics(answer[0]) for answer in answers] == expected


def test_too_little_memory_for_a_network_fails_its_trial_alone(make_worker):
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")

    good, bad = make_worker().train_epochs([task("0"), task("1", make=too_large)], FP32)
    assert isinstance(good, Epoch) and bad == Failure("OutOfMemoryError: CUDA out of memory")


def test_any_other_error_ends_the_call(make_worker):
    """Ray's worker is replaced then, because each later call of CUDA may fail."""
    with pytest.raises(ZeroDivisionError):
        make_worker().train_epochs([task("0"), task("1", make=lambda: 1 / 0)], FP32)
