"""The paper's networks: layers, numbers of parameters, and the identity of an untrained transformer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.paper.networks import paper_network
from experiments.paper.settings import load_params
from pipelines.evaluation.layer_table import layers
from pipelines.networks.build import count_parameters, network_settings
from stn.classifiers import Network, build_network
from stn.settings import NetworkSettings

PARAMS = load_params()
SIZES = {"R": 28, "RTS": 42, "TC": 60}


def settings_of(name: str, shape: tuple[int, int, int], classes: int = 10) -> NetworkSettings:
    return network_settings(paper_network(name, shape, classes, PARAMS.train), shape, classes)


def build(name: str, shape: tuple[int, int, int], classes: int = 10) -> Network:
    return build_network(settings_of(name, shape, classes))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PARAMS.networks)
def test_networks_of_a_kind_have_similar_numbers_of_parameters(name, size):
    wanted = PARAMS.train.parameters.FCN if "FCN" in name else PARAMS.train.parameters.CNN
    count = count_parameters(settings_of(name, (1, size, size)))
    assert count == sum(p.numel() for p in build(name, (1, size, size)).parameters())
    # Convolutions have multiples of 16 filters.
    assert abs(count / wanted - 1) < (0.03 if "FCN" in name else 0.45)


def test_the_layers_are_those_of_the_paper():
    table = [(row.kind, row.output) for row in layers(build("ST-CNN-affine", (1, 60, 60)), (1, 60, 60))]
    learned = [row for row in table if row[0] in ("Conv2d", "Linear")]
    # 60 halved is 30: two 5×5 convolutions and pools leave 4×4; then 9×9 and 7×7 on a digit's 28×28.
    assert learned == [
        ("Conv2d", (20, 26, 26)), ("Conv2d", (20, 9, 9)), ("Linear", (64,)), ("Linear", (6,)),
        ("Conv2d", (32, 20, 20)), ("Conv2d", (64, 4, 4)), ("Linear", (10,)),
    ]  # fmt: skip
    shapes = [tuple(p.shape[2:]) for p in build("ST-CNN-affine", (1, 28, 28)).parameters() if p.ndim == 4]
    assert shapes == [(5, 5), (5, 5), (9, 9), (7, 7)]


@pytest.mark.parametrize("name", [name for name in PARAMS.networks if name.startswith("ST-")])
def test_an_untrained_transformer_returns_the_averaged_image(name):
    torch.manual_seed(0)
    network = build(name, (1, 56, 56)).eval()  # twice a digit's size, so that the 2×2 samples are pixels
    images = torch.randn(3, 1, 56, 56)
    torch.testing.assert_close(network(images), network.classifier(F.avg_pool2d(images, 2)), atol=1e-4, rtol=1e-4)


def test_two_parallel_transformers_for_the_addition():
    network = build("2xST-FCN-tps", (2, 42, 42), 19)
    assert network.transformer is not None and network.transformer.transform.heads == 2
    first = next(module for module in network.classifier.modules() if isinstance(module, nn.Linear))
    assert first.in_features == 2 * 2 * 28 * 28  # each transformer returns both channels
    assert network(torch.zeros(5, 2, 42, 42)).shape == (5, 19)
