"""The steps of Muon in few calls, for GPUs: all matrices are orthogonalized as one padded stack."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stn.orthogonalization import orthogonalize_stack

# torch's own optimizers use these. They have no public names.
_foreach_add, _foreach_add_ = torch._foreach_add, torch._foreach_add_  # pyright: ignore[reportPrivateImportUsage]
_foreach_mul_, _foreach_sub_ = torch._foreach_mul_, torch._foreach_sub_  # pyright: ignore[reportPrivateImportUsage]
_foreach_copy_ = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage]
LARGEST_STACK = 4_000_000  # numbers


class Stack(NamedTuple):
    """Matrices as one padded stack.

    Args:
        matrices: (M, R, C), zero outside the matrices.
        views: the part of ``matrices`` of each parameter, with the shape of the parameter.
        identities: an identity matrix for each, (M, R, R).
        factors: times the learning rates of the groups (G,), what each orthogonal matrix is multiplied by, (M, G).
    """

    matrices: Tensor
    views: list[Tensor]
    identities: Tensor
    factors: Tensor


class BatchedMuon:
    """Performs the steps of :class:`stn.muon.Muon` in few calls.

    One call changes all parameters, or all of a group. Learning rates may be tensors, which are not copied to the CPU.

    Args:
        groups: the parameter groups of the optimizer. They may have different learning rates and weight decays.
        scale: factor of orthogonal steps.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], scale: float):
        any_orthogonal = any(group["orthogonal"] for group in groups)
        self.stack = _make_stack(groups, scale) if any_orthogonal else None
        decays = [group["weight_decay"] / (1 - group["momentum"]) for group in groups]
        self.decays = torch.tensor(decays, device=groups[0]["params"][0].device)

    def step(self, groups: Sequence[dict[str, Any]], averages: list[Tensor]) -> None:
        """Perform one step. ``averages`` are those of the gradients of all parameters, in the order of the groups."""
        momentum = groups[0]["momentum"]
        gradients = [[parameter.grad for parameter in group["params"]] for group in groups]
        for decay in {group["weight_decay"] for group in groups if not group["orthogonal"]} - {0.0}:
            chosen = [i for i, group in enumerate(groups) if not group["orthogonal"] and group["weight_decay"] == decay]
            parameters = [parameter for i in chosen for parameter in groups[i]["params"]]
            decayed = iter(_foreach_add([g for i in chosen for g in gradients[i]], parameters, alpha=decay))
            for i in chosen:
                gradients[i] = [next(decayed) for _ in gradients[i]]
        flat = [gradient for of_group in gradients for gradient in of_group]
        _foreach_mul_(averages, momentum)
        _foreach_add_(averages, flat)
        steps = iter(_foreach_add(flat, averages, alpha=momentum))
        rates = [group["lr"] for group in groups]
        rates = [rate if isinstance(rate, Tensor) else torch.full_like(self.decays[0], rate) for rate in rates]
        rates_G = torch.stack(rates)
        kept = (1 - rates_G * self.decays).unbind()
        orthogonal = []
        for i, group in enumerate(groups):
            of_group = [next(steps) for _ in group["params"]]
            if group["orthogonal"]:
                orthogonal += of_group
                if group["weight_decay"]:
                    _foreach_mul_(group["params"], kept[i])
            else:
                _foreach_mul_(of_group, rates[i])
                _foreach_sub_(group["params"], of_group)
        if self.stack is not None:
            self._step_orthogonal(groups, orthogonal, rates_G)

    def _step_orthogonal(self, groups: Sequence[dict[str, Any]], steps: list[Tensor], rates_G: Tensor) -> None:
        stack = self.stack
        assert stack is not None
        _foreach_copy_(stack.views, steps)
        moved = orthogonalize_stack(stack.matrices, stack.factors @ rates_G, stack.identities)
        parameters = [parameter for group in groups if group["orthogonal"] for parameter in group["params"]]
        _foreach_sub_(parameters, _views(moved, parameters))


def can_be_stacked(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether all matrices are small enough that padding them to one shape costs little."""
    shapes = [_shape(parameter) for group in groups if group["orthogonal"] for parameter in group["params"]]
    rows, columns = max(map(min, shapes), default=0), max(map(max, shapes), default=0)
    return len(shapes) * rows * columns <= LARGEST_STACK


def _make_stack(groups: Sequence[dict[str, Any]], scale: float) -> Stack:
    orthogonal = [(p, i) for i, group in enumerate(groups) if group["orthogonal"] for p in group["params"]]
    parameters, shapes = [parameter for parameter, _ in orthogonal], [_shape(parameter) for parameter, _ in orthogonal]
    first, (rows, columns) = parameters[0], (max(map(min, shapes)), max(map(max, shapes)))
    matrices = first.new_zeros(len(shapes), rows, columns)
    identity = torch.eye(rows, dtype=first.dtype, device=first.device)
    factors = torch.zeros(len(shapes), len(groups), dtype=first.dtype)
    for matrix, (_, group) in enumerate(orthogonal):
        tall, wide = shapes[matrix]
        factors[matrix, group] = scale * max(1.0, tall / wide) ** 0.5
    return Stack(
        matrices, _views(matrices, parameters), identity.expand(len(shapes), -1, -1), factors.to(first.device)
    )  # fmt: skip


def _shape(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns of a parameter as a matrix."""
    return len(parameter), parameter.numel() // len(parameter)


def _views(matrices: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a stack (M, R, C) that belong to the parameters, with their shapes; tall ones lie transposed."""
    views = []
    for matrix, parameter in zip(matrices.unbind(), parameters, strict=True):
        rows, columns = _shape(parameter)
        part = matrix[:columns, :rows].T if rows > columns else matrix[:rows, :columns]
        views.append(part.unflatten(1, parameter.shape[1:]) if parameter.ndim > 2 else part)
    return views
