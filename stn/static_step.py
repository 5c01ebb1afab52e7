"""A training step on tensors with fixed addresses.

Everything that differs between steps is read from tensors: the images by a step counter on the device, and the learning
rates. :func:`stn.training.train_epoch` is the reference: the step calls it with one batch.
"""

from typing import cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from stn.batches import Batches, Epoch, make_batch
from stn.classifiers import Network
from stn.settings import Recipe
from stn.training import train_epoch


class StaticStep:
    """One training step on tensors with fixed addresses.

    Args:
        network, optimizer, batches, recipe: what is trained, and how.
        precision: the dtype of autocast.

    Attributes:
        steps: number of steps in an epoch.
        losses: of each step of the epoch, (steps,).
    """

    def __init__(
        self, network: Network, optimizer: Optimizer, batches: Batches, recipe: Recipe, *,
        precision: torch.dtype, class_weights: Tensor | None = None,
    ):  # fmt: skip
        self.network, self.optimizer, self.batches = network, optimizer, batches
        self.recipe, self.precision, self.class_weights = recipe, precision, class_weights
        self.pixels = next(iter(batches.store.stream([slice(0, 1)])))
        self.steps, device = len(batches) // recipe.batch_size, batches.device
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(self.steps, device=device)
        self.rates = torch.zeros(self.steps, len(optimizer.param_groups), device=device)
        self.rate = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.epoch: Epoch | None = None

    def load(self, epoch: Epoch, rates: Tensor) -> None:
        """Take over what was drawn for an epoch, and its learning rates (steps, groups), all on the CPU."""
        if self.epoch is None:
            self.epoch = epoch.map(lambda drawn: drawn.to(self.batches.device, copy=True))
        else:
            for static, drawn in zip(self.epoch.tensors(), epoch.tensors(), strict=True):
                static.copy_(drawn, non_blocking=True)
        self.rates.copy_(rates, non_blocking=True)
        self.counter.zero_()

    def run(self) -> None:
        """Perform the step of the counter and increase the counter."""
        assert self.epoch is not None
        shares = self.epoch.order[: self.steps * self.recipe.batch_size].view(self.steps, -1)
        index = shares.index_select(0, self.counter)[0]
        rates = self.rates.index_select(0, self.counter)[0].unbind()
        for static, rate in zip(self.rate, rates, strict=True):
            static.copy_(rate)
        losses = train_epoch(
            self.network, [make_batch(self.batches, self.pixels, index, self.epoch)], self.optimizer,
            cast(LRScheduler, _Constant()), self.recipe, precision=self.precision, class_weights=self.class_weights,
        )  # fmt: skip
        self.losses.index_copy_(0, self.counter, losses)
        self.counter.add_(1)

    def tensors(self) -> list[Tensor]:
        """All tensors that keep their values from one step to the next."""
        own = [self.counter, self.losses, self.rates, *self.rate]
        drawn = [] if self.epoch is None else self.epoch.tensors()
        return [*own, *drawn, *self.network.parameters(), *self.network.buffers(), *self.states().values()]

    def states(self) -> dict[tuple[Tensor, str], Tensor]:
        """The tensors of the optimizer's state, by parameter and name."""
        return {
            (parameter, name): value
            for parameter, state in self.optimizer.state.items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }


class _Constant:
    """A schedule that changes nothing."""

    def step(self) -> None:
        pass


def learning_rates(scheduler: LambdaLR, steps: int) -> Tensor:
    """Return the learning rates of the next steps, (steps, groups), on the CPU. The schedule does not advance."""
    first = scheduler.last_epoch
    rates = [
        [base * factor(first + step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        for step in range(steps)
    ]
    return torch.tensor(rates, dtype=torch.float64).float()
