"""Trainer: which images are watched, and that θ in the history is that of the network after each epoch."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training import ranks
from pipelines.training.trainer import WATCHED, Trainer, TrainingData, spread_over_classes
from stn.batches import Batches
from stn.classifiers import build_network
from stn.settings import LocalizationSettings, NetworkSettings, Normalization, Recipe, TransformerSettings
from stn.theta_watch import ThetaWatch
from stn.training import predict

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.05, max_grad_norm=1.0)
LOCALIZATION = LocalizationSettings(channels=(3,), kernel_sizes=(3,), hidden=(4,))
TRANSFORMER = TransformerSettings(transform=("similarity",), localization=LOCALIZATION)


def batches() -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (31, 1, 16, 16), dtype=torch.uint8, generator=generator)
    return Batches(images, torch.arange(31) // 4 % 3, Normalization([0.5], [0.25]), torch.device("cpu"))


def make_trainer(transformer: bool = True) -> Trainer:
    settings = NetworkSettings((1, 16, 16), classes=3, transformer=TRANSFORMER if transformer else None, dropout=0.2)
    data = TrainingData(batches(), batches())
    return Trainer(partial(build_network, settings), RECIPE, data, seed=0, precision=torch.float32)


@given(st.lists(st.integers(0, 15), min_size=1, max_size=60), st.integers(1, 20))
def test_examples_are_spread_over_the_classes(labels, count):
    chosen = spread_over_classes(torch.tensor(labels), count).tolist()
    assert len(set(chosen)) == len(chosen) == min(count, len(labels))
    of_class = {label: [i for i in chosen if labels[i] == label] for label in set(labels)}
    for label, indices in of_class.items():
        assert indices == [i for i, other in enumerate(labels) if other == label][: len(indices)], "not its first ones"
    most = max(len(indices) for indices in of_class.values())
    for label, indices in of_class.items():
        assert len(indices) >= min(most - 1, labels.count(label)), "a class has two more than another"
    if len(of_class) > count > 1:
        assert labels[chosen[0]] == min(labels) and labels[chosen[-1]] == max(labels)


def test_the_theta_history_is_what_the_network_predicts_after_each_epoch():
    trainer = make_trainer()
    expected = []
    while trainer.done < trainer.epochs:
        trainer.train_epoch()
        outputs = predict(trainer.network, trainer.validation.ordered(7))
        expected.append(outputs.thetas["input"][trainer.watched])
    assert len(trainer.watched) == WATCHED
    torch.testing.assert_close(torch.stack(trainer.theta_history), torch.stack(expected))
    assert not torch.equal(trainer.theta_history[0], trainer.theta_history[1])


def test_a_resumed_trainer_has_the_theta_history_of_an_undisturbed_one():
    whole, first, second = make_trainer(), make_trainer(), make_trainer()
    for _ in range(3):
        whole.train_epoch()
    first.train_epoch()
    second.load_state_dict(first.state_dict())
    second.train_epoch()
    second.train_epoch()
    assert torch.equal(torch.stack(second.theta_history), torch.stack(whole.theta_history))


def test_without_a_transformer_there_is_no_theta_history():
    trainer = make_trainer(transformer=False)
    metrics = trainer.train_epoch()
    assert trainer.theta_history == [] and not [name for name in metrics if name.startswith("theta_")]


def test_watching_theta_changes_no_weights_and_the_history_has_its_metrics(monkeypatch):
    watched = make_trainer()
    for _ in range(3):
        watched.train_epoch()
    monkeypatch.setattr(ThetaWatch, "measure", lambda *_: {})
    unwatched = make_trainer()
    for _ in range(3):
        unwatched.train_epoch()
    for name, weights in watched.weights().items():
        assert torch.equal(weights, unwatched.weights()[name]), name
    assert {"theta_spread", "theta_mirrored", "theta_one_color", "theta_undone_rotation"} <= watched.history[0].keys()
    theta = predict(watched.network, watched.validation.ordered(31)).thetas["input"]
    spread = theta.double().std(0, correction=0).max().item()
    assert watched.history[-1]["theta_spread"] == pytest.approx(spread, rel=1e-4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_any_number_of_workers_gathers_the_same_rows(world_size, monkeypatch):
    """Each rank fills in the rows of its own share of the images and zeros elsewhere; their sum is complete."""
    monkeypatch.setattr(ranks, "all_reduce", lambda rows: rows)
    everything, chosen = torch.randn(31, 4), spread_over_classes(batches().labels, WATCHED)
    numbered = Batches(
        torch.zeros(31, 1, 4, 4, dtype=torch.uint8), torch.arange(31), Normalization([0.5], [0.25]), torch.device("cpu")
    )
    total, of_all = torch.zeros(WATCHED, 4), torch.zeros(31, 4)
    for rank in range(world_size):
        share = torch.cat([indices for _, indices in numbered.ordered(5, rank, world_size)])
        total += ranks.gather_rows(everything[share], chosen, rank, world_size)
        of_all += ranks.gather_rows(everything[share], torch.arange(31), rank, world_size)
    np.testing.assert_array_equal(total, everything[chosen])
    np.testing.assert_array_equal(of_all, everything)
