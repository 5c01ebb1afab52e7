"""Trains an epoch of several seeds: side by side on a GPU where that is possible, else one after another."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from pipelines.outputs.trained_models import Metrics
from pipelines.training.trainer import Trainer, end_steps, finish_epoch
from stn.side_by_side import NextEpoch, can_share_a_device, train_side_by_side
from stn.training import NotFiniteError


def train_epochs(
    trainers: Sequence[Trainer], on_step: Sequence[Callable[[int], None] | None]
) -> list[Metrics | NotFiniteError]:
    """Train an epoch of each trainer; returns what :meth:`Trainer.train_epoch` returns or raises for each.

    The first epochs, in which steps are captured, are trained one after another.

    Args:
        trainers: of one recipe and the same images.
        on_step: for each trainer, called after each of its steps with the number of steps done in this epoch.
    """
    if len(trainers) == 1 or not all(can_share_a_device(trainer.captured) for trainer in trainers):
        return [attempt(partial(each.train_epoch, report)) for each, report in zip(trainers, on_step, strict=True)]

    def after_step(step: int) -> None:
        for report in on_step:
            if report is not None:
                report(step)

    started = time.perf_counter()
    epochs = [NextEpoch(each.captured, each.seed, each.done, each.scheduler) for each in trainers if each.captured]
    losses, terms = train_side_by_side(epochs, after_step), [each.training.step.alignment for each in epochs]
    trained = [attempt(partial(end_steps, *each)) for each in zip(trainers, losses, terms, strict=True)]
    seconds = time.perf_counter() - started  # of the steps of all of them
    return [
        result if isinstance(result, NotFiniteError) else attempt(partial(finish_epoch, trainer, result, seconds))
        for trainer, result in zip(trainers, trained, strict=True)
    ]


def attempt(train: Callable[[], Metrics]) -> Metrics | NotFiniteError:
    """Return what a function returns, or the NotFiniteError that it raises."""
    try:
        return train()
    except NotFiniteError as error:
        return error
