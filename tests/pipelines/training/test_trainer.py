"""Trainer: which images are watched, and that θ in the history is that of the network after each epoch."""

import copy
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn

from pipelines.training import ranks
from pipelines.training.trainer import WATCHED, Trainer, TrainingData, spread_over_classes
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.classifiers import Network, build_network
from stn.settings import (
    AlignmentSettings,
    LocalizationSettings,
    NetworkSettings,
    Normalization,
    Recipe,
    TransformerSettings,
)
from stn.theta_watch import ThetaWatch
from stn.training import predict

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.05, max_grad_norm=1.0)
LOCALIZATION = LocalizationSettings(channels=(3,), kernel_sizes=(3,), hidden=(4,))
TRANSFORMER = TransformerSettings(transform=("similarity",), localization=LOCALIZATION)


EVERYTHING = replace(
    RECIPE, optimizer="adamw", lr=0.01, decay_norms=False, label_smoothing=0.1, flip=True, shift=1, crop=(0.4, 1.0),
    color_jitter=0.3, mixup=0.5, vertical_flip=True, ema=0.7,
)  # fmt: skip


def batches(augmentation: Augmentation = Augmentation(), sampler: str = "uniform") -> Batches:
    """Batches of 31 images: 12, 12 and 7 of the classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (31, 1, 16, 16), dtype=torch.uint8, generator=generator)
    normalization = Normalization([0.5], [0.25])
    labels = torch.arange(31) // 4 % 3
    return Batches(images, labels, normalization, torch.device("cpu"), augmentation, sampler=sampler)


def make_trainer(
    transformer: bool = True,
    recipe: Recipe = RECIPE,
    dropout: float = 0.2,
    make_network: Callable[[], Network] | None = None,
    **rank: int,
) -> Trainer:
    settings = NetworkSettings((1, 16, 16), 3, TRANSFORMER if transformer else None, dropout=dropout)
    names = ("flip", "vertical_flip", "shift", "crop", "color_jitter", "mixup", "distortion_ramp")
    augmentation = Augmentation(**{name: getattr(recipe, name) for name in names})
    data = TrainingData(batches(augmentation, recipe.sampler), batches())
    make_network = make_network or partial(build_network, settings)
    return Trainer(make_network, recipe, data, seed=0, precision=torch.float32, **rank)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_filters_have_the_fastest_order(memory_format, monkeypatch):
    monkeypatch.setattr("pipelines.training.trainer.fastest_memory_format", lambda *_: memory_format)
    network = make_trainer().network
    filters = [parameter for parameter in network.parameters() if parameter.ndim == 4 and parameter.shape[1] > 1]
    assert filters and all(weight.is_contiguous(memory_format=memory_format) for weight in filters)


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


@pytest.mark.parametrize("change", [{"sampler": "balanced"}, {"class_weights": "balanced"}], ids=str)
def test_a_training_that_makes_up_for_rare_classes_is_resumed_bit_for_bit(change):
    recipe = replace(EVERYTHING, **change)
    usual, whole, first, second = (make_trainer(recipe=each) for each in (EVERYTHING, recipe, recipe, recipe))
    for _ in range(3):
        whole.train_epoch()
        usual.train_epoch()
    first.train_epoch()
    second.load_state_dict(first.state_dict())
    second.train_epoch()
    second.train_epoch()
    resumed = second.weights()
    for name, weights in whole.weights().items():
        assert torch.equal(weights, resumed[name]), name
    assert any(not torch.equal(weights, resumed[name]) for name, weights in usual.weights().items())
    assert second.history[-1]["train_loss"] == whole.history[-1]["train_loss"] != usual.history[-1]["train_loss"]


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="class_weights: 'inverse' is not one of none, balanced"):
        make_trainer(recipe=replace(RECIPE, class_weights="inverse"))


def test_the_balanced_scores_of_the_validation_images_are_those_of_scikit_learn():
    trainer = make_trainer()
    metrics = trainer.train_epoch()
    outputs = predict(trainer.network, trainer.validation.ordered(31))
    predicted = outputs.logits.argmax(1)
    expected = balanced_accuracy_score(outputs.labels, predicted)
    assert metrics["validation_balanced_accuracy"] == pytest.approx(expected) != metrics["validation_accuracy"]
    assert metrics["validation_macro_f1"] == pytest.approx(f1_score(outputs.labels, predicted, average="macro"))


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


@pytest.mark.parametrize("alignment", [AlignmentSettings(0.0, "upright", 0.5), AlignmentSettings(1.0)])
def test_the_term_for_undone_motions_changes_weights_only_with_a_weight_and_is_reported_apart(alignment):
    plain, changed = make_trainer(), make_trainer(recipe=replace(RECIPE, alignment=alignment))
    without = make_trainer(transformer=False, recipe=replace(RECIPE, alignment=alignment))
    for trainer in (plain, changed, without):
        trainer.train_epoch()
        trainer.train_epoch()
    expected = plain.weights()
    same = all(torch.equal(tensor, expected[name]) for name, tensor in changed.weights().items())
    assert same == (alignment.weight == 0)
    assert ("alignment_loss" in changed.history[0]) == (alignment.weight > 0)
    assert "alignment_loss" not in plain.history[0].keys() | without.history[0].keys()


ALIGNED = replace(EVERYTHING, mixup=0.0, alignment=AlignmentSettings(1.0, "itself", warmup=0.7))


@pytest.mark.parametrize(
    "recipe", [ALIGNED, *(replace(EVERYTHING, optimizer=name) for name in ("sgd", "muon", "adamw"))]
)
def test_a_trainer_with_every_part_of_a_recipe_resumes_bit_for_bit(recipe):
    whole, first, second = (make_trainer(recipe=recipe) for _ in range(3))
    for _ in range(3):
        whole.train_epoch()
    first.train_epoch()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.train_epoch()
    second.train_epoch()
    for trainer in (first, second):
        assert trainer.average is not None and trainer.average.steps == trainer.done * trainer.steps
    expected = whole.weights()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.weights().items())
    last = whole.network.state_dict()
    assert all(torch.equal(tensor, last[name]) for name, tensor in second.network.state_dict().items())
    for metrics, other in zip(second.history, whole.history, strict=True):
        assert {n: v for n, v in metrics.items() if "validation" in n or n.endswith("_loss")} == {
            n: v for n, v in other.items() if "validation" in n or n.endswith("_loss")
        }


def test_the_averaged_network_is_validated_and_returned():
    plain, averaged = make_trainer(), make_trainer(recipe=replace(RECIPE, ema=0.7))
    expected = copy.deepcopy(plain.network.state_dict())

    def include_weights(_: int) -> None:
        number = averaged.scheduler.last_epoch
        keep = min(0.7, number / (number + 9))
        for name, tensor in averaged.network.state_dict().items():
            expected[name] = keep * expected[name] + (1 - keep) * tensor

    for _ in range(2):
        plain.train_epoch()
        averaged.train_epoch(include_weights)
    metrics = averaged.history[-1]
    for name, tensor in averaged.weights().items():
        torch.testing.assert_close(tensor, expected[name])
        assert torch.equal(averaged.network.state_dict()[name], plain.weights()[name]), "the training has changed"
    logits, labels, thetas = predict(averaged.result, averaged.validation.ordered(31))
    assert metrics["validation_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    torch.testing.assert_close(averaged.theta_history[-1], thetas["input"][averaged.watched])
    assert metrics["validation_loss"] != plain.history[-1]["validation_loss"]


def normalizing_network() -> Network:
    """A network with statistics of its batches, which each rank measures on its own images."""
    layers = nn.Flatten(), nn.Linear(256, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
    return Network(nn.Sequential(*layers))


def train_rank(rank: int, world_size: int, folder: str) -> list[dict[str, np.ndarray]]:
    """Train three networks for two epochs as one of several ranks; returns the weights of each."""
    if world_size > 1:
        place, timeout = f"file://{folder}/rendezvous", timedelta(minutes=2)
        dist.init_process_group("gloo", place, timeout, rank=rank, world_size=world_size)
    recipe, weights = replace(EVERYTHING, optimizer="sgd"), []
    aligned = replace(recipe, mixup=0.0, alignment=AlignmentSettings(1.0, "itself", warmup=0.5))
    try:
        for of_network, make_network in ((recipe, None), (aligned, None), (recipe, normalizing_network)):
            trainer = make_trainer(
                recipe=of_network, dropout=0.0, make_network=make_network, rank=rank, world_size=world_size
            )
            for _ in range(2):
                trainer.train_epoch()
            trained = {f"trained.{name}": tensor for name, tensor in trainer.network.state_dict().items()}
            weights.append({name: tensor.numpy() for name, tensor in (trainer.weights() | trained).items()})
            if of_network is aligned:
                weights[-1]["alignment_loss"] = np.array([metrics["alignment_loss"] for metrics in trainer.history])
    finally:
        if world_size > 1:
            dist.destroy_process_group()
    return weights


@pytest.mark.slow
def test_two_ranks_hold_the_same_average_and_it_is_that_of_one_rank(tmp_path: Path):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        other = pool.submit(train_rank, 1, 2, str(tmp_path))
        first = train_rank(0, 2, str(tmp_path))
        second = other.result()
    for one, same in zip(first, second, strict=True):
        for name, tensor in one.items():
            np.testing.assert_array_equal(tensor, same[name], err_msg=name)
    # Statistics of a batch depend on the number of ranks; all else does not.
    for mine, alone in zip(first[:2], train_rank(0, 1, "")[:2], strict=True):
        for name, tensor in alone.items():
            np.testing.assert_allclose(mine[name], tensor, atol=1e-5, err_msg=name)
