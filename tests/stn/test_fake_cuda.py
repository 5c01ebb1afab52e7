"""Every network, family, distortion and optimizer on fake GPU tensors: no mix of devices, no number read by Python.

The backward pass does not run here: autograd has no thread for a device that does not exist. Neither does bf16: torch
disables autocast without a GPU.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from stn import (
    LocalizationSettings,
    Network,
    NetworkSettings,
    Normalization,
    Recipe,
    TransformerSettings,
    build_network,
)
from stn.alignment_term import AlignmentTerm
from stn.augmentation import Augmentation
from stn.averaging import WeightAverage
from stn.batches import Batches
from stn.distortions import PROTOCOLS, make_distortion
from stn.optimizers import make_optimizer
from stn.settings import AlignmentSettings
from stn.static_step import StaticStep, learning_rates
from stn.training import metric_sums, one_cycle, predict, train_epoch
from stn.transforms import TRANSFORMS
from tests.fake_cuda import CUDA, NoHostCopies, fake_batches, fake_tensors, to_fake_gpu

LOCALIZATION = LocalizationSettings(channels=(4, 4), kernel_sizes=(5, 3), hidden=(8,))
FRONT = TransformerSettings(localization=LOCALIZATION)
INNER = TransformerSettings(localization=LocalizationSettings(channels=(3,), kernel_sizes=(3,), hidden=(4,)))
NORMALIZATION = Normalization([0.5], [0.25])
RECIPE = Recipe(epochs=1, batch_size=8, max_grad_norm=1.0, theta_penalty=0.1, label_smoothing=0.1)
NETWORKS = {
    "plain": NetworkSettings((1, 24, 24), 4),
    "dropout": NetworkSettings((1, 24, 24), 4, FRONT, dropout=0.3),
    "inner": NetworkSettings((1, 24, 24), 4, FRONT, inner={"conv2": INNER}),
    "parallel": NetworkSettings((1, 24, 24), 4, replace(FRONT, parallel=2, antialias=2, output_size=(20, 20))),
    "series": NetworkSettings((1, 24, 24), 4, replace(FRONT, transform=("attention", "affine"))),
    "series of a spline": NetworkSettings((1, 24, 24), 4, replace(FRONT, transform=("similarity", "tps"))),
    "crops": NetworkSettings((1, 24, 24), 4, replace(FRONT, transform=("attention",), scale=0.5, parallel=2)),
} | {
    family: NetworkSettings((1, 24, 24), 4, replace(FRONT, transform=(family,), bound=0.5)) for family in TRANSFORMS
}  # fmt: skip
AUGMENTATIONS = {
    "none": Augmentation(),
    "all": Augmentation(flip=True, shift=2, crop=(0.5, 1.0), color_jitter=0.3, mixup=0.4, vertical_flip=True),
} | {protocol: Augmentation(distortion=make_distortion(protocol)) for protocol in PROTOCOLS}


@pytest.fixture(autouse=True)
def no_backward(monkeypatch):
    """Stands in for the backward pass: all parameters of the last network built have a gradient."""
    made: list[nn.Module] = []

    def backward(_):
        for parameter in made[-1].parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    return made


def real_batches(augmentation: Augmentation) -> Batches:
    images = torch.zeros(17, 1, 24, 24, dtype=torch.uint8)
    return Batches(images, torch.arange(17) % 4, NORMALIZATION, torch.device("cpu"), augmentation, classes=4)


class FakeTraining(NamedTuple):
    network: Network
    optimizer: Optimizer
    batches: Batches
    average: WeightAverage


@contextmanager
def fake_training(made: list, settings: NetworkSettings, recipe: Recipe, augmentation: Augmentation):
    """What a training needs, on fake tensors."""
    real = real_batches(augmentation)
    network = build_network(settings).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    twin, drawn = build_network(settings), real.draw(0, 0)
    with fake_tensors() as mode:
        batches = fake_batches(real, drawn, NORMALIZATION, mode)
        made.append(to_fake_gpu(network, mode))
        twin = to_fake_gpu(twin, mode)
        with patch("stn.averaging.copy", SimpleNamespace(deepcopy=lambda _: twin)):  # fake tensors have no copies
            average = WeightAverage(network, 0.9)
        yield FakeTraining(network, make_optimizer(network, recipe), batches, average)


def train_and_predict(made: list, settings: NetworkSettings, recipe: Recipe, augmentation=AUGMENTATIONS["none"]):
    """Train two steps and predict on fake tensors, without copies between the devices."""
    with fake_training(made, settings, recipe, augmentation) as (network, optimizer, batches, average):
        scheduler = one_cycle(optimizer, 2, 0.1)
        term = None
        if recipe.alignment.weight:
            term = AlignmentTerm(network, batches, recipe).start(0, 0)
        # The first steps fill caches and the state of the optimizer, which may copy.
        for watch in (nullcontext(), NoHostCopies()):
            with watch:
                losses = train_epoch(
                    network, batches.shuffled(8, 0, 0), optimizer, scheduler, recipe, precision=torch.float32,
                    average=average, alignment=term,
                )  # fmt: skip
        assert losses.device == CUDA and losses.shape == (2,)
        outputs = predict(network, batches.ordered(8))
        assert outputs.logits.device == CUDA and outputs.logits.shape == (17, 4)
        assert {value.device for value in metric_sums(network, batches, outputs).values()} == {CUDA}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trains_and_predicts_on_one_device(name, no_backward):
    train_and_predict(no_backward, NETWORKS[name], RECIPE)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_are_changed_on_one_device(name, no_backward):
    recipe = replace(RECIPE, mixup=AUGMENTATIONS[name].mixup)
    train_and_predict(no_backward, NETWORKS["affine"], recipe, AUGMENTATIONS[name])


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw"])
def test_an_optimizer_steps_on_one_device(optimizer, no_backward):
    recipe = replace(RECIPE, optimizer=optimizer, weight_decay=0.01, localization_lr=0.5)
    train_and_predict(no_backward, NETWORKS["affine"], recipe)


@pytest.mark.parametrize(("to", "name"), [("itself", "parallel"), ("upright", "affine"), ("upright", "tps")])
def test_the_term_for_undone_motions_is_computed_on_one_device(to, name, no_backward):
    recipe = replace(RECIPE, alignment=AlignmentSettings(1.0, to, 0.5))
    augmentation = Augmentation(distortion=make_distortion("RTS"), crop=(0.5, 1.0))
    train_and_predict(no_backward, NETWORKS[name], recipe, augmentation)


@pytest.mark.parametrize("to", ["itself", "upright"])
def test_a_static_step_with_an_average_and_the_term_copies_nothing(to, no_backward):
    recipe = replace(RECIPE, alignment=AlignmentSettings(1.0, to, 0.5))
    augmentation = AUGMENTATIONS["RTS"]
    with fake_training(no_backward, NETWORKS["affine"], recipe, augmentation) as (network, optimizer, batches, average):
        step = StaticStep(network, optimizer, batches, recipe, precision=torch.float32, average=average)
        step.load(step.draw(0, 0), learning_rates(one_cycle(optimizer, 2, 0.1), 2))
        for group, rate in zip(optimizer.param_groups, step.rate, strict=True):
            group["lr"] = rate
        for watch in (nullcontext(), NoHostCopies()):
            with watch:
                step.run()
        assert step.losses.device == CUDA


def test_the_watch_sees_what_it_is_for():
    with fake_tensors() as mode, torch.device("cuda"):
        on_gpu = torch.zeros(3)
        on_cpu = mode.from_tensor(torch.zeros(3, device="cpu"))
        for copy in (
            lambda: on_gpu.new_tensor([1.0, 2.0]),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: on_cpu.to("cuda"),
            lambda: on_gpu.cpu(),
            lambda: on_gpu.copy_(on_cpu),
            lambda: on_gpu * torch.zeros((), device="cpu"),
        ):
            with pytest.raises(AssertionError), NoHostCopies():
                copy()
        with pytest.raises(Exception, match=r"data-dependent|DataDependent|_local_scalar_dense"):
            on_gpu[0].item()
        with NoHostCopies():
            assert (on_gpu * 2 + torch.ones(3, device="cuda")).device == CUDA
