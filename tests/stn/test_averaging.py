"""The average of the weights equals one computed by hand, and continues from its state."""

import copy

import pytest
import torch
from torch import nn

from stn.averaging import WeightAverage
from stn.classifiers import Network


def make_network() -> Network:
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))


def change(network: Network, steps: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Random values in place of the network's, once for each of ``steps``."""
    generator, states = torch.Generator().manual_seed(seed), []
    for step in range(1, steps + 1):
        states.append(
            {
                name: torch.tensor(3 * step) if tensor.ndim == 0 else torch.randn(tensor.shape, generator=generator)
                for name, tensor in network.state_dict().items()
            }
        )
    return states


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_the_average_is_the_one_computed_by_hand(decay):
    network = make_network()
    average = WeightAverage(network, decay)
    expected = {name: tensor.double() for name, tensor in network.state_dict().items()}
    for step, state in enumerate(change(network, 40), start=1):
        network.load_state_dict(state)
        average.update()
        keep = min(decay, step / (step + 9))
        expected = {
            name: keep * tensor + (1 - keep) * state[name].double() if state[name].is_floating_point() else state[name]
            for name, tensor in expected.items()
        }
    averaged = average.network.state_dict()
    assert averaged["classifier.1.num_batches_tracked"] == 120, "integers are copied"
    assert "classifier.1.running_var" in averaged
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor.double(), expected[name].double(), atol=1e-5, rtol=1e-5)


def test_the_network_itself_does_not_change_and_the_average_has_no_gradient():
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    average = WeightAverage(network, 0.9)
    average.update()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_a_short_training_forgets_its_random_start_for_any_decay():
    network = make_network()
    average = WeightAverage(network, 0.99999)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    for _ in range(60):
        average.update()
    for parameter in average.network.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, 7.0), atol=1e-4, rtol=0)


def test_it_continues_from_its_state_bit_for_bit():
    states = change(make_network(), 12)
    whole, first = make_network(), make_network()
    averages = [WeightAverage(whole, 0.95), WeightAverage(first, 0.95)]
    for state in states:
        whole.load_state_dict(state)
        averages[0].update()
    for state in states[:5]:
        first.load_state_dict(state)
        averages[1].update()
    second = make_network()
    resumed = WeightAverage(second, 0.95)
    resumed.load_state_dict(averages[1].state_dict())
    for state in states[5:]:
        second.load_state_dict(state)
        resumed.update()
    expected = averages[0].network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.network.state_dict().items())
