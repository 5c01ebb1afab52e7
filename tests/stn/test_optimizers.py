"""Optimizers: every parameter in one group with its settings, and steps of AdamW by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stn import Localization, Network, Recipe, SpatialTransformer
from stn.optimizers import make_optimizer, parameter_groups

RECIPE = Recipe(epochs=1, batch_size=8, lr=0.1, momentum=0.9, weight_decay=0.01, localization_lr=0.5)
SHAPE = (1, 20, 20)
OPTIMIZERS = ["sgd", "muon", "adamw"]


def make_network() -> Network:
    """A network with normalization layers in the classifier."""
    torch.manual_seed(0)
    localization = Localization(SHAPE, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), channels=(3,), kernel_sizes=(3,), hidden=(4,))
    classifier = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return Network(classifier, SpatialTransformer(localization))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("localization_decay", [None, 0.3])
def test_every_parameter_is_in_one_group_with_its_rate_and_decay(optimizer, decay_norms, localization_decay):
    network = make_network()
    recipe = replace(RECIPE, optimizer=optimizer, decay_norms=decay_norms, localization_weight_decay=localization_decay)
    made = make_optimizer(network, recipe)
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert sorted(names[p] for group in made.param_groups for p in group["params"]) == sorted(names.values())
    for group in made.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            localization = name.startswith("transformer.")
            decay = localization_decay if localization and localization_decay is not None else 0.01
            assert group["lr"] == (0.05 if localization else 0.1), name
            assert group["weight_decay"] == (decay if decay_norms or parameter.ndim > 1 else 0), name
            assert not group["orthogonal"] or (optimizer == "muon" and parameter.ndim > 1), name
    assert any(group["orthogonal"] for group in made.param_groups) == (optimizer == "muon")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay_norms", [True, False])
def test_weight_decay_alone_shrinks_matrices_and_on_request_vectors(optimizer, decay_norms):
    network = make_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    make_optimizer(network, replace(RECIPE, optimizer=optimizer, decay_norms=decay_norms)).step()
    for name, parameter in network.named_parameters():
        shrunk = bool((parameter < 1).all())
        assert shrunk == (decay_norms or parameter.ndim > 1), name
        assert shrunk or torch.equal(parameter, torch.ones_like(parameter)), name


def test_groups_with_equal_settings_are_one_group():
    groups = parameter_groups(make_network(), replace(RECIPE, optimizer="sgd", localization_lr=1.0))
    assert len(groups) == 1 and len(groups[0]["params"]) == len(list(make_network().parameters()))


def test_adamw_steps_as_in_its_paper():
    network = make_network()
    by_hand = copy.deepcopy(network)
    recipe = replace(RECIPE, optimizer="adamw", lr=0.01, momentum=0.8, weight_decay=0.05, decay_norms=False)
    optimizer = make_optimizer(network, recipe)
    first, second = ({name: torch.zeros_like(p) for name, p in by_hand.named_parameters()} for _ in range(2))
    for step in range(1, 5):
        for (name, parameter), mine in zip(network.named_parameters(), by_hand.parameters(), strict=True):
            gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
            parameter.grad = gradient.clone()
            lr = 0.005 if name.startswith("transformer.") else 0.01
            decay = 0.05 if parameter.ndim > 1 else 0.0
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            scaled = first[name] / (1 - 0.8**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            with torch.no_grad():
                mine.mul_(1 - lr * decay).sub_(lr * scaled)
        optimizer.step()
    for (name, parameter), mine in zip(network.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(parameter, mine, msg=lambda text, name=name: f"{name}: {text}")


def test_layers_closer_to_the_input_learn_more_slowly():
    network = make_network()
    layers = {name: number for number, name in enumerate(["0", "1", "5"])}  # children of the classifier with parameters
    names = {parameter: name for name, parameter in network.named_parameters()}
    for group in parameter_groups(network, replace(RECIPE, layer_decay=0.5)):
        for parameter in group["params"]:
            part, name, *_ = names[parameter].split(".")
            expected = 0.1 * 0.5 ** (2 - layers[name]) if part == "classifier" else 0.05
            assert group["lr"] == pytest.approx(expected), names[parameter]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_are_fused_on_gpus_alone(optimizer):
    recipe = replace(RECIPE, optimizer=optimizer)
    assert not make_optimizer(make_network(), recipe).defaults.get("fused")
    with FakeTensorMode(), torch.device("cuda"):
        assert make_optimizer(make_network(), recipe).defaults.get("fused", True)
