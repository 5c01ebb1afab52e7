"""Muon: momentum SGD with orthogonalized steps."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from stn.batched_muon import BatchedMuon, can_be_stacked
from stn.orthogonalization import orthogonalize

# An orthogonal step moves every direction by the full learning rate, which is too long for the learning rates of SGD.
# Measured on CIFAR-10, see LOG.md.
SCALE = 0.5


class Muon(Optimizer):
    """SGD with Nesterov momentum. Groups with ``orthogonal`` set use the nearest orthogonal matrix as their step.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). A filter bank (out, in, k, k) is
    treated as a matrix (out, in · k · k). Learning rate and weight decay have the same meaning as in SGD: an orthogonal
    step is scaled by 0.5, and its weight decay is ``weight_decay / (1 - momentum)``, decoupled from the gradient.

    ``torch.optim.Muon`` accepts matrices only and multiplies them in bf16. For matrices as small as those of this
    library it takes 3.6 times as long on a CPU.

    Args:
        groups: dictionaries with ``params`` and, optionally, ``lr``, ``weight_decay`` and ``orthogonal``.
        momentum: in [0, 1).
        batched: whether all parameters are changed in few calls, see :class:`stn.batched_muon.BatchedMuon`. The steps
            are then equal up to rounding. None: on GPUs, where the number of calls counts, if all matrices are small.
    """

    def __init__(
        self, groups: list[dict], lr: float, momentum: float = 0.9, weight_decay: float = 0.0, *,
        batched: bool | None = None,
    ):  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "orthogonal": False}
        super().__init__(groups, defaults)
        on_gpu = self.param_groups[0]["params"][0].device.type == "cuda"
        use_batched = on_gpu and can_be_stacked(self.param_groups) if batched is None else batched
        self._batched = BatchedMuon(self.param_groups, SCALE) if use_batched else None

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Perform one step. Parameters without a gradient do not change. ``closure`` must be None."""
        assert closure is None
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if self._batched is not None and all(parameter.grad is not None for parameter in parameters):
            for parameter in parameters:
                if "momentum" not in self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            self._batched.step(self.param_groups, [self.state[parameter]["momentum"] for parameter in parameters])
            return
        for group in self.param_groups:
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient, state = parameter.grad, self.state[parameter]
                if not group["orthogonal"]:
                    gradient = gradient.add(parameter, alpha=decay)
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].mul_(momentum).add_(gradient)
                step = gradient.add(average, alpha=momentum)
                if group["orthogonal"]:
                    parameter.mul_(1 - lr * decay / (1 - momentum))
                    step = SCALE * orthogonalize(step.flatten(1)).view_as(step)
                if isinstance(lr, Tensor):  # a number would have to be read from the GPU
                    parameter.sub_(step * lr)
                else:
                    parameter.sub_(step, alpha=lr)
