"""The order in memory in which a network trains."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn

from stn import Network, NetworkSettings, Recipe, TransformerSettings, build_network
from stn.alignment_term import AlignmentTerm
from stn.memory_format import fastest_memory_format, in_fastest_memory_format
from stn.precision import measure_speedup
from stn.training import one_cycle, predict, train_epoch

FIRST, LAST = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cuda", torch.float32, FIRST), ("cuda", torch.bfloat16, LAST),
        ("cpu", torch.float32, LAST), ("cpu", torch.bfloat16, LAST),
    ],
)  # fmt: skip
def test_only_gpus_in_fp32_train_with_channels_first(device, precision, expected):
    assert fastest_memory_format(torch.device(device), precision) == expected


@pytest.mark.parametrize(("given", "wanted"), [(FIRST, LAST), (LAST, FIRST)])
def test_images_and_second_views_reach_the_network_in_that_order(given, wanted, monkeypatch):
    monkeypatch.setattr("stn.memory_format.fastest_memory_format", lambda *_: wanted)
    images, view = (torch.rand(n, 3, 32, 32).contiguous(memory_format=given) for n in (4, 2))
    network = build_network(NetworkSettings((3, 32, 32), 2, TransformerSettings()))
    seen = []

    def keep(_, arguments, named):
        seen.extend([arguments[0], named["second_view"]])

    network.register_forward_pre_hook(keep, with_kwargs=True)
    network.transformers["input"].localization.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    alignment = cast(AlignmentTerm, SimpleNamespace(second_view=lambda *_: view, loss=lambda *_: 0.0))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    batches = [(images, torch.tensor([0, 1, 0, 1]))]
    train_epoch(
        network, batches, optimizer, one_cycle(optimizer, 1, 0.0), Recipe(epochs=1, batch_size=4),
        precision=torch.float32, alignment=alignment,
    )  # fmt: skip
    predict(network, batches)
    for tensor, expected in zip(seen, (images, view, torch.cat((images, view)), images), strict=True):
        assert torch.equal(tensor, expected) and tensor.is_contiguous(memory_format=wanted)


def test_gray_images_do_not_look_like_channels_last(monkeypatch):
    """Both orders are the same for them. cuDNN reads their strides."""
    monkeypatch.setattr("stn.memory_format.fastest_memory_format", lambda *_: FIRST)
    images = torch.rand(4, 6, 5, 1).permute(0, 3, 1, 2)
    arranged = in_fastest_memory_format(images, torch.float32)
    assert torch.equal(arranged, images) and arranged.stride() == (30, 30, 5, 1)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5, 6)])
def test_other_tensors_than_images_stay_as_they_are(shape):
    tensor = torch.rand(shape)
    assert in_fastest_memory_format(tensor, torch.float32) is tensor


def test_each_precision_is_measured_in_its_own_order(monkeypatch):
    for module in ("stn.memory_format", "stn.precision"):
        monkeypatch.setattr(f"{module}.fastest_memory_format", lambda _, dtype: FIRST if dtype.itemsize == 4 else LAST)
    networks, seen = [], set()

    def make() -> Network:
        network = Network(nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        network.register_forward_pre_hook(
            lambda _, arguments: seen.add((torch.is_autocast_enabled("cpu"), arguments[0].is_contiguous()))
        )
        networks.append(network)
        return network

    measure_speedup(make, torch.rand(4, 3, 6, 5), torch.tensor([0, 1, 0, 1]))
    filters = [network.classifier[0].weight for network in networks]
    assert [weight.is_contiguous() for weight in filters] == [True, False]
    assert seen == {(False, True), (True, False)}
