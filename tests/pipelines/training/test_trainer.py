"""Fit: which images are watched, and that their θ after each epoch is that of the network of that epoch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training import trainer as fit_module
from pipelines.training.trainer import WATCHED, Trainer, spread_over_classes
from stn.batches import Batches
from stn.training import predict

META = {"image_shape": [1, 16, 16], "classes": ["a", "b", "c"], "mean": [0.5], "std": [0.25]}
RECIPE = {
    "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "optimizer": "sgd", "dropout": 0.2, "epochs": 3, "batch_size": 8,
    "warmup": 0.2, "max_grad_norm": 1.0,
}  # fmt: skip
VARIANT = {
    "transformer": {"transform": "similarity", "localization": {"channels": [3], "kernel_sizes": [3], "hidden": 4}},
    "classifier": None, "localization_lr": 1.0, "localization_weight_decay": None, "theta_penalty": 0.0,
}  # fmt: skip


def batches() -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (31, 1, 16, 16), dtype=torch.uint8, generator=generator)
    return Batches(images, torch.arange(31) // 4 % 3, [0.5], [0.25], torch.device("cpu"))


def make_fit(variant: dict = VARIANT, **ranks) -> Trainer:
    return Trainer(RECIPE, variant, META, batches(), batches(), seed=0, precision=torch.float32, **ranks)


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


def test_the_course_is_what_the_network_says_after_each_epoch():
    fit = make_fit()
    expected = []
    while fit.done < fit.epochs:
        fit.epoch()
        _, _, theta = predict(fit.network, fit.validation.ordered(7))
        assert theta is not None
        expected.append(theta[fit.watched])
    assert len(fit.watched) == WATCHED
    torch.testing.assert_close(torch.stack(fit.course), torch.stack(expected))
    assert not torch.equal(fit.course[0], fit.course[1])


def test_a_fit_that_goes_on_has_the_course_of_one_that_was_not_stopped():
    whole, first, second = make_fit(), make_fit(), make_fit()
    for _ in range(3):
        whole.epoch()
    first.epoch()
    second.load_state_dict(first.state_dict())
    second.epoch()
    second.epoch()
    assert torch.equal(torch.stack(second.course), torch.stack(whole.course))


def test_without_a_transformer_there_is_no_course():
    fit = make_fit(VARIANT | {"transformer": None})
    fit.epoch()
    assert fit.course == []


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_any_number_of_workers_gathers_the_same_rows(world_size, monkeypatch):
    """Each rank puts in the rows of its own share of the validation images, zeros elsewhere: their sum is complete."""
    fit = make_fit()
    everything = torch.randn(31, 4)
    monkeypatch.setattr(fit_module, "all_reduce", lambda rows: rows)
    total = torch.zeros(WATCHED, 4)
    for rank in range(world_size):
        fit.rank, fit.world_size = rank, world_size
        shares = [labels for _, labels in Batches(
            fit.validation._originals().permute(0, 3, 1, 2), torch.arange(31), [0.5], [0.25], torch.device("cpu")
        ).ordered(5, rank, world_size)]  # fmt: skip
        total += fit._of_watched(everything[torch.cat(shares)])
    np.testing.assert_array_equal(total, everything[fit.watched])
