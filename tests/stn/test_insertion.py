"""Transformers inside a network: shapes, gradients, θ and copies."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn.classifiers import Network, RawClassifier, build_network
from stn.insertion import input_shapes
from stn.settings import LocalizationSettings, NetworkSettings, Normalization, TransformerSettings

LOCALIZATION = LocalizationSettings(channels=(), kernel_sizes=(), hidden=(8,))
INNER = TransformerSettings(localization=LOCALIZATION)
SHAPE = (1, 28, 28)


def network_with(*places: str, front: bool = False, **settings):
    torch.manual_seed(0)
    inner = {place: TransformerSettings(localization=LOCALIZATION, **settings) for place in places}
    return build_network(NetworkSettings(SHAPE, 10, INNER if front else None, inner=inner))


def move(network) -> None:
    """Give each localization network weights that move the features of each image differently."""
    for transformer in network.transformers.values():
        nn.init.normal_(transformer.localization.head[-1].weight, std=0.05)


def test_an_untrained_inner_transformer_changes_nothing():
    torch.manual_seed(0)
    plain = build_network(NetworkSettings(SHAPE, 10))
    network, images = network_with("conv2"), torch.randn(3, *SHAPE)
    network.classifier.load_state_dict(plain.classifier.state_dict())  # the submodules keep their names
    torch.testing.assert_close(network(images), plain(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", ["conv1", "conv2", "relu1"])
def test_the_input_of_the_submodule_is_warped(place):
    network, images = network_with(place), torch.randn(3, *SHAPE)
    move(network)
    network.eval()
    names = [name for name, _ in network.classifier.named_children()]
    layers = list(network.classifier.children())
    first = nn.Sequential(*layers[: names.index(place)])
    rest = nn.Sequential(*copy.deepcopy(layers[names.index(place) :]))
    for layer in rest:
        layer._forward_pre_hooks.clear()
    features = first(images)
    transformer = network.transformers[place]
    theta = transformer.localization(features)
    grid = F.affine_grid(theta.view(-1, 2, 3), list(features.shape), align_corners=False)
    expected = rest(F.grid_sample(features, grid, align_corners=False))
    logits, thetas = network.predict(images)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(thetas, {place: theta})
    assert (theta[0] - theta[1]).abs().max() > 1e-3


def test_each_transformer_has_its_own_theta_and_gradient():
    network, images = network_with("conv1", "conv2", front=True), torch.randn(3, *SHAPE)
    move(network)
    logits, thetas = network(images, with_theta=True)
    assert list(thetas) == ["input", "conv1", "conv2"]
    assert not torch.equal(thetas["conv1"], thetas["conv2"])
    logits.square().sum().backward()
    for place, transformer in network.transformers.items():
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in transformer.parameters()), place


def test_a_copy_has_transformers_of_its_own():
    network, images = network_with("conv2"), torch.randn(2, *SHAPE)
    move(network)
    network.eval()
    before, twin = network(images), copy.deepcopy(network)
    move(twin)
    assert not torch.allclose(twin(images), before)
    assert torch.equal(network(images), before)


def test_an_inner_transformer_may_change_the_size():
    network = network_with("conv2", output_size=(13, 13), antialias=2)  # 13 → 9 by conv2 → 4 by pool2
    sizes = []
    network.classifier.get_submodule("relu2").register_forward_hook(lambda *of: sizes.append(of[-1].shape[2:]))
    assert network(torch.randn(2, *SHAPE)).shape == (2, 10)
    assert sizes[-1] == (4, 4)


def test_theta_of_each_place_is_exported_with_any_batch_size():
    network = network_with("conv1", "conv2", front=True)
    move(network)
    raw = RawClassifier(network, Normalization([0.5], [0.25])).eval()
    images = torch.randint(256, (5, *SHAPE), dtype=torch.uint8)
    program = torch.export.export(raw, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    outputs, expected = program.module()(images), raw(images)
    assert set(outputs) == {"class", "probabilities", "theta", "theta_conv1", "theta_conv2"}
    assert outputs["theta_conv2"].shape == (5, 2, 3)
    for name, values in expected.items():
        torch.testing.assert_close(outputs[name], values)


def test_shapes_are_those_that_enter_each_submodule():
    classifier = build_network(NetworkSettings((3, 32, 40), 10)).classifier
    seen: dict[str, tuple[int, ...]] = {}
    for name in ("conv1", "relu1", "conv2"):
        classifier.get_submodule(name).register_forward_pre_hook(
            lambda _module, inputs, name=name: seen.update([(name, tuple(inputs[0].shape[1:]))])  # pyright: ignore[reportArgumentType, reportCallIssue]
        )
    classifier(torch.zeros(1, 3, 32, 40))
    assert input_shapes(classifier, (3, 32, 40), *seen) == list(seen.values()) != []


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.same, self.never, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.LazyLinear(2)

    def forward(self, images):
        return self.last(self.same(self.same(images)).flatten(1))


@pytest.mark.parametrize(
    ("classifier", "place", "message"),
    [
        (None, "conv3", r"at: 'conv3' given; there are: input, conv1, conv_dropout|at: 'conv3' given; .*conv1"),
        (None, "", "at: '' given"),
        (None, "hidden1", r"its input has the shape \(1, 320\), not \(B, C, H, W\)"),
        (Twice, "same", "it runs 2 times for an image, not once"),
        (Twice, "never", "it runs 0 times for an image, not once"),
    ],
)
def test_places_that_cannot_be_are_refused(classifier, place, message):
    def make(*_):
        network = classifier()
        network(torch.zeros(1, *SHAPE))
        return network

    settings = NetworkSettings(SHAPE, 10, inner={place: INNER})
    if classifier is not None:
        settings = NetworkSettings(SHAPE, 10, classifier=make, inner={place: INNER})
    with pytest.raises(ValueError, match=message):
        build_network(settings)


class WithLayers(nn.Module):
    """A classifier whose attribute ``layers`` is only a part of it."""

    def __init__(self):
        super().__init__()
        self.stem, self.layers = nn.Conv2d(1, 3, 5), nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(968, 10))

    def forward(self, images):
        return self.layers(self.stem(images))


def test_names_are_those_of_the_whole_classifier():
    inner = {"stem": INNER, "layers.0": INNER}
    network = build_network(NetworkSettings(SHAPE, 10, classifier=lambda *_: WithLayers(), inner=inner))
    assert list(network(torch.randn(2, *SHAPE), with_theta=True)[1]) == ["stem", "layers_0"]


def test_two_places_with_one_name_are_refused():
    def make(*_):
        network = WithLayers()
        network.layers_0 = nn.Identity()
        return network

    transformer = build_network(NetworkSettings(SHAPE, 10, INNER)).transformer
    assert transformer is not None
    with pytest.raises(ValueError, match="'layers_0' given; its θ would have the name of another place"):
        Network(make(), inner={"layers.0": transformer, "layers_0": transformer})
