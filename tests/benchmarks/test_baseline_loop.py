"""The other side of the benchmarks is the baseline network, and ours computes the same."""

import torch

from benchmarks.baseline_loop import SeedNetwork
from stn.classifiers import build_network


def test_it_is_the_baseline_network_and_ours_with_the_same_weights_agrees():
    torch.manual_seed(0)
    theirs, ours = SeedNetwork().eval(), build_network((3, 32, 32), 10, {"localization": {}}).eval()
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 39_884
    torch.nn.init.normal_(theirs.theta.weight, std=0.05)  # so that θ is not the identity alone
    # Both list the localization network first, and each one's layers in the order in which they run.
    weights = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(weights)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).log_softmax(1), theirs(images))
