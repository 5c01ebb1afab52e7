"""Muon: momentum SGD with orthogonalized steps."""

import torch
from torch import Tensor
from torch.optim import Optimizer

# Coefficients of a quintic polynomial that moves all singular values toward one in five steps, but not exactly to one:
# Jordan et al. (2024), "Coefficient optimization".
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
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
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float = 0.9, weight_decay: float = 0.0):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "orthogonal": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Perform one step. Parameters without a gradient do not change. ``closure`` must be None."""
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
                    step = SCALE * orthogonalize(step.flatten(1)).view_as(step)
                if isinstance(lr, Tensor):  # a number would have to be read from the GPU
                    parameter.sub_(step * lr)
                else:
                    parameter.sub_(step, alpha=lr)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix (m, n) with the singular vectors of ``matrix`` and singular values of about 0.7 to 1.2.

    Uses the Newton-Schulz iteration of Jordan et al. (2024). If m > n, the result is multiplied by √(m / n). The
    relative change of the outputs in a step is then the same for all shapes.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrix.shape
    wide = matrix.T if rows > columns else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T * (rows / columns) ** 0.5 if rows > columns else wide
