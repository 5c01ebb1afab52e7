"""Convolutions in fp32 are not rounded to TF32, in training and in evaluation."""

import pytest
import torch
from torch import nn

from stn import Network, Normalization, Recipe
from stn.batches import Batches
from stn.precision import measure_speedup
from stn.tf32 import without_tf32
from stn.training import one_cycle, predict, train_epoch


class Probe(nn.Module):
    """A classifier that notes whether cuDNN and matrix products may round to TF32 while it runs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.seen = []

    def forward(self, images):
        self.seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("allowed", [True, False])
def test_training_and_evaluation_do_not_round_and_leave_the_setting_as_it_was(allowed, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    images = torch.zeros(8, 1, 4, 4, dtype=torch.uint8)
    batches = Batches(images, torch.arange(8) % 3, Normalization([0.5], [0.5]), torch.device("cpu"))
    probe = Probe()
    network = Network(probe)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    train_epoch(
        network, batches.shuffled(4, 0, 0), optimizer, one_cycle(optimizer, 2, 0.0), Recipe(1, 4),
        precision=torch.float32,
    )  # fmt: skip
    predict(network, batches.ordered(8))
    measure_speedup(lambda: network, torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    assert len(probe.seen) > 3 and set(probe.seen) == {(False, False)}
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_the_setting_is_restored_after_an_error():
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), without_tf32():
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32 == before
