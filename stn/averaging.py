"""Exponential average of a network's weights during training."""

import copy
from typing import Any

import torch

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

    @torch.no_grad()
    def update(self) -> None:
        """Include the weights after a step."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + RAMP))
        averages, tensors = (list(tensors) for tensors in zip(*self._floats, strict=True))
        torch._foreach_lerp_(averages, tensors, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for average, tensor in self._integers:
            average.copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs to continue from here."""
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]
