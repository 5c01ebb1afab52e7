"""Exponential average of a network's weights during training."""

import copy
from typing import Any

import torch
from torch import Tensor

from stn.classifiers import Network

RAMP = 9.0


class WeightAverage:
    """A copy of a network whose parameters and buffers are an exponential average over the training steps.

    After step t = 1, 2, … an averaged tensor becomes d · average + (1 - d) · tensor, with
    d = min(``decay``, t / (t + 9)). The average then reaches back over about a ninth of the training so far, and over
    at most 1 / (1 - ``decay``) steps. With a constant decay, the random weights of the start would dominate the average
    of a short training. TensorFlow's ``ExponentialMovingAverage`` has a ramp like this one.

    Integers, such as the count of batches in a normalization layer, are copied: ``torch.optim.swa_utils.AveragedModel``
    truncates averages of integers, so that even a constant one may decrease.

    Args:
        network: the network to average, on its device. Averaging starts from its weights.
        decay: in [0, 1).

    Attributes:
        network: the averaged network.
        steps: number of averaged steps.
    """

    def __init__(self, network: Network, decay: float):
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.steps = decay, 0
        # Optimizers change tensors in place, so that these lists stay valid.
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._integers = [pair for pair in pairs if not pair[0].is_floating_point()]

    def update(self) -> None:
        """Include the weights after a step."""
        (weight,) = self.next_weights(1)
        self.include(weight)
        self.steps += 1

    def next_weights(self, steps: int) -> list[float]:
        """The weight 1 - d of the network in the average, for each of the next steps."""
        numbers = range(self.steps + 1, self.steps + steps + 1)
        return [1 - min(self.decay, number / (number + RAMP)) for number in numbers]

    @torch.no_grad()
    def include(self, weight: float | Tensor) -> None:
        """Move the average by ``weight``, a number or a scalar tensor, towards the network. ``steps`` stays."""
        averages, tensors = (list(tensors) for tensors in zip(*self._floats, strict=True))
        if isinstance(weight, Tensor):
            for average, tensor in self._floats:
                average.lerp_(tensor, weight)
        else:
            torch._foreach_lerp_(averages, tensors, weight)  # pyright: ignore[reportPrivateImportUsage]
        for average, tensor in self._integers:
            average.copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs to continue from here."""
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]
