"""A training step on tensors with fixed addresses.

Everything that differs between steps is read from tensors: the images by a step counter on the device, and the learning
rates. :func:`stn.training.train_epoch` is the reference: the step calls it with one batch.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from stn.alignment_term import AlignmentEpoch, AlignmentTerm, draw_alignment
from stn.averaging import WeightAverage
from stn.batches import Batches, Epoch, make_batch
from stn.classifiers import Network
from stn.settings import Recipe
from stn.training import train_epoch


class Drawn(NamedTuple):
    """What an epoch draws.

    Args:
        parts: of the images, see :meth:`stn.batches.Batches.draw_parts`.
        alignment: of the term for undone motions, if there is one.
    """

    parts: list[Epoch]
    alignment: AlignmentEpoch | None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Drawn":
        """Apply a function to all tensors."""
        return Drawn(
            [part.map(change) for part in self.parts], None if self.alignment is None else self.alignment.map(change)
        )

    def tensors(self) -> list[Tensor]:
        """All tensors."""
        of_parts = [tensor for part in self.parts for tensor in part.tensors()]
        return of_parts if self.alignment is None else of_parts + self.alignment.tensors()


class StaticStep:
    """One training step on tensors with fixed addresses.

    Args:
        network, optimizer, batches, recipe: what is trained, and how.
        precision: the dtype of autocast.
        average: of the network's weights; each step includes them.

    Attributes:
        steps: number of steps in an epoch.
        losses: of each step of the epoch, (steps,).
        alignment: the term for undone motions, if the recipe has it and the network a transformer in front.
    """

    def __init__(
        self, network: Network, optimizer: Optimizer, batches: Batches, recipe: Recipe, *,
        precision: torch.dtype, class_weights: Tensor | None = None, average: WeightAverage | None = None,
    ):  # fmt: skip
        self.network, self.optimizer, self.batches = network, optimizer, batches
        self.recipe, self.precision, self.class_weights = recipe, precision, class_weights
        self.pixels = next(iter(batches.store.stream([slice(0, 1)])))
        self.steps, device = len(batches) // recipe.batch_size, batches.device
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(self.steps, device=device)
        self.rates = torch.zeros(self.steps, len(optimizer.param_groups), device=device)
        self.rate = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.average, self.average_weights = average, torch.zeros(self.steps, device=device)
        has_term = recipe.alignment.weight and network.transformer is not None
        self.alignment = AlignmentTerm(network, batches, recipe) if has_term else None
        self.drawn: Drawn | None = None

    def draw(self, seed: int, epoch: int) -> Drawn:
        """Draw an epoch, on the CPU."""
        alignment = None if self.alignment is None else draw_alignment(self.batches, self.recipe, seed, epoch)
        return Drawn(self.batches.draw_parts(seed, epoch), alignment)

    def load(self, drawn: Drawn, rates: Tensor) -> None:
        """Take over what was drawn for an epoch, and its learning rates (steps, groups), all on the CPU."""
        if self.drawn is None:
            self.drawn = drawn.map(lambda tensor: tensor.to(self.batches.device, copy=True))
        else:
            for static, tensor in zip(self.drawn.tensors(), drawn.tensors(), strict=True):
                static.copy_(tensor, non_blocking=True)
        if self.alignment is not None and self.drawn.alignment is not None:
            self.alignment.load(self.drawn.alignment, self.drawn.parts)
        if self.average is not None:
            self.average_weights.copy_(torch.tensor(self.average.next_weights(self.steps)))
        self.rates.copy_(rates, non_blocking=True)
        self.counter.zero_()

    def run(self) -> None:
        """Perform the step of the counter and increase the counter."""
        assert self.drawn is not None
        parts, shown = self.drawn.parts, self.steps * self.recipe.batch_size
        orders = [part.order[:shown].view(self.steps, -1).index_select(0, self.counter)[0] for part in parts]
        batch = make_batch(self.batches, [self.pixels] * len(parts), orders, parts)
        rates = self.rates.index_select(0, self.counter)[0].unbind()
        for static, rate in zip(self.rate, rates, strict=True):
            static.copy_(rate)
        weight = self.average_weights.index_select(0, self.counter)[0]
        losses = train_epoch(
            self.network, [batch], self.optimizer, cast(LRScheduler, _Constant()), self.recipe,
            precision=self.precision, class_weights=self.class_weights,
            average=self.average and cast(WeightAverage, _AverageAtCounter(self.average, weight)),
            alignment=self.alignment and cast(AlignmentTerm, _AlignmentAtCounter(self.alignment, self.counter)),
        )  # fmt: skip
        self.losses.index_copy_(0, self.counter, losses)
        self.counter.add_(1)

    def tensors(self) -> list[Tensor]:
        """All tensors that keep their values from one step to the next."""
        own = [self.counter, self.losses, self.rates, *self.rate, self.average_weights]
        drawn = [] if self.drawn is None else self.drawn.tensors()
        return [*own, *drawn, *self.trained(), *self.states().values()]

    def trained(self) -> list[Tensor]:
        """The tensors that a step changes, other than its own and the optimizer's state."""
        networks = [self.network] if self.average is None else [self.network, self.average.network]
        tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        return tensors if self.alignment is None else [*tensors, self.alignment.total]

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


class _AverageAtCounter:
    """The average of the weights. A step includes the network with a weight that is a tensor."""

    def __init__(self, average: WeightAverage, weight: Tensor):
        self.average, self.weight = average, weight

    def update(self) -> None:
        self.average.include(self.weight)


class _AlignmentAtCounter:
    """The term for undone motions. A counter, not the number from train_epoch, says which step of the epoch it is."""

    def __init__(self, alignment: AlignmentTerm, counter: Tensor):
        self.alignment, self.counter = alignment, counter

    def second_view(self, _: int, images: Tensor) -> Tensor | None:
        return self.alignment.second_view(self.counter, images)

    def loss(self, _: int, thetas: dict[str, Tensor]) -> Tensor:
        return self.alignment.loss(self.counter, thetas)


def learning_rates(scheduler: LambdaLR, steps: int) -> Tensor:
    """Return the learning rates of the next steps, (steps, groups), on the CPU. The schedule does not advance."""
    first = scheduler.last_epoch
    rates = [
        [base * factor(first + step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        for step in range(steps)
    ]
    return torch.tensor(rates, dtype=torch.float64).float()
