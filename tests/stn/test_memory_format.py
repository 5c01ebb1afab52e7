"""The order in memory in which a network trains."""

import pytest
import torch
from torch import nn

from stn import Network, Normalization, Recipe
from stn.batches import Batches
from stn.memory_format import fastest_memory_format, in_fastest_memory_format
from stn.training import one_cycle, train_epoch


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cuda", torch.float32, torch.contiguous_format), ("cuda", torch.bfloat16, torch.channels_last),
        ("cpu", torch.float32, torch.channels_last), ("cpu", torch.bfloat16, torch.channels_last),
    ],
)  # fmt: skip
def test_only_gpus_in_fp32_train_with_channels_first(device, precision, expected):
    assert fastest_memory_format(torch.device(device), precision) == expected


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_reach_the_network_in_that_order(memory_format, monkeypatch):
    monkeypatch.setattr("stn.memory_format.fastest_memory_format", lambda *_: memory_format)
    images = torch.randint(256, (8, 3, 6, 5), dtype=torch.uint8)
    batches = Batches(images, torch.arange(8) % 2, Normalization([0.5] * 3, [0.5] * 3), torch.device("cpu"))
    network = Network(nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    seen = []
    network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    recipe = Recipe(epochs=1, batch_size=4)
    train_epoch(
        network, batches.shuffled(4, 0, 0), optimizer, one_cycle(optimizer, 2, 0.0), recipe, precision=torch.float32
    )
    expected = [images for images, _ in batches.shuffled(4, 0, 0)]
    assert all(torch.equal(image, other) for image, other in zip(seen, expected, strict=True))
    assert all(image.is_contiguous(memory_format=memory_format) for image in seen)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5, 6)])
def test_other_tensors_than_images_stay_as_they_are(shape):
    tensor = torch.rand(shape)
    assert in_fastest_memory_format(tensor, torch.float32) is tensor
