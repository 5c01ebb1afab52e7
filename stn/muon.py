"""Muon: momentum whose steps are orthogonalized matrices."""

import torch
from torch import Tensor
from torch.optim import Optimizer

# Of a quintic polynomial that pulls all singular values towards one within five steps, though not exactly onto it:
# Jordan et al. (2024), "Coefficient optimization".
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# An orthogonal step moves every direction by the full learning rate: at the rates of SGD it would be too long.
# Measured on CIFAR-10, see LOG.md.
SCALE = 0.5


class Muon(Optimizer):
    """SGD with Nesterov momentum that, in groups with ``orthogonal``, steps by the nearest orthogonal matrix.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). A bank of filters (out, in, k, k)
    is the matrix (out, in · k · k). Learning rate and weight decay mean what they mean for SGD: an orthogonal step is
    half as long, and decays by ``weight_decay / (1 - momentum)``, apart from the gradient.

    ``torch.optim.Muon`` takes nothing but matrices, and multiplies them in bf16: for ones as small as these that takes
    3.6 times as long on a CPU.

    Args:
        groups: dictionaries with ``params`` and, each optional, ``lr``, ``weight_decay`` and ``orthogonal``.
        momentum: at least 0 and below 1.
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float = 0.9, weight_decay: float = 0.0):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "orthogonal": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make one step; parameters without a gradient stay. A ``closure`` is not taken."""
        assert closure is None
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
                    step = SCALE * orthogonal(step.flatten(1)).view_as(step)
                parameter.sub_(step, alpha=lr)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with the singular vectors of ``matrix`` and singular values near one, of about 0.7 to 1.2.

    By Newton-Schulz iteration, Jordan et al. (2024). Where m > n it is √(m / n) times that, so that a step changes
    outputs of the same size by the same share, whatever the shape.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrix.shape
    wide = matrix.T if rows > columns else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T * (rows / columns) ** 0.5 if rows > columns else wide
