"""The network of the baseline loop equals this project's baseline network."""

import torch

from benchmarks.baseline_network import BaselineNetwork
from stn.classifiers import build_network
from stn.settings import NetworkSettings, TransformerSettings


def test_both_networks_agree_with_the_same_weights():
    torch.manual_seed(0)
    settings = NetworkSettings((3, 32, 32), 10, TransformerSettings())
    theirs, ours = BaselineNetwork().eval(), build_network(settings).eval()
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 39_884
    torch.nn.init.normal_(theirs.theta.weight, std=0.05)  # so that θ is not the identity
    # Both list the localization network first, and their layers in execution order.
    weights = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(weights)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).log_softmax(1), theirs(images))
