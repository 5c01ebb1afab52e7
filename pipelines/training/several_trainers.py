"""Trains an epoch of several seeds or trials: side by side on a GPU where that is possible, else one after another."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from pipelines.training.trainer import Trainer, end_steps, finish_epoch
from stn.side_by_side import NextEpoch, can_share_a_device, train_side_by_side

Error = TypeVar("Error", bound=Exception)
Result = TypeVar("Result")


def train_epochs(
    trainers: Sequence[Trainer], on_step: Sequence[Callable[[int], None] | None], caught: tuple[type[Error], ...]
) -> list[dict[str, float] | Error]:
    """Train an epoch of each trainer; returns what :meth:`Trainer.train_epoch` returns or raises for each.

    The first epoch of a trainer, in which its step is captured, is trained alone.

    Args:
        trainers: of the same images and batch size.
        on_step: for each trainer, called after each of its steps with the number of steps done in this epoch.
        caught: errors that are returned if one trainer raises them; others are raised.
    """
    together = [place for place, trainer in enumerate(trainers) if can_share_a_device(trainer.captured)]
    together = together if len(together) > 1 else []
    outcomes: dict[int, dict[str, float] | Error] = {
        place: attempt(partial(trainer.train_epoch, on_step[place]), caught)
        for place, trainer in enumerate(trainers)
        if place not in together
    }
    if together:
        done = train_together([trainers[place] for place in together], [on_step[place] for place in together], caught)
        outcomes |= zip(together, done, strict=True)
    return [outcomes[place] for place in range(len(trainers))]


def train_together(
    trainers: Sequence[Trainer], on_step: Sequence[Callable[[int], None] | None], caught: tuple[type[Error], ...]
) -> list[dict[str, float] | Error]:
    """Train an epoch of each trainer side by side, see :func:`train_epochs`; their steps have been captured."""

    def after_step(step: int) -> None:
        for report in on_step:
            if report is not None:
                report(step)

    started = time.perf_counter()
    epochs = [NextEpoch(each.captured, each.seed, each.done, each.scheduler) for each in trainers if each.captured]
    losses = train_side_by_side(epochs, after_step)
    terms = [each.training.step.alignment for each in epochs]
    trained = [attempt(partial(end_steps, *each), caught) for each in zip(trainers, losses, terms, strict=True)]
    seconds = time.perf_counter() - started  # of the steps of all of them
    return [
        result if isinstance(result, Exception) else attempt(partial(finish_epoch, trainer, result, seconds), caught)
        for trainer, result in zip(trainers, trained, strict=True)
    ]


def attempt(work: Callable[[], Result], caught: tuple[type[Error], ...]) -> Result | Error:
    """Return what a function returns, or the error that it raises if it is one of ``caught``."""
    try:
        return work()
    except caught as error:
        return error.with_traceback(None)  # whose frames would keep trainers in the memory
