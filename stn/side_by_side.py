"""Trains several networks at once on one GPU.

A step of a small network occupies a part of a GPU. The captured steps of several networks therefore run on streams of
their own, and the GPU works on all of them at once. Each network trains as it does alone: its step reads and writes
tensors of its own. Only random numbers are shared: torch has one generator, whose state all captured steps read. Steps
that draw random numbers, as dropout does, are therefore refused.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from stn.captured_step import CapturedTraining
from stn.cuda_graph import Replay


class NextEpoch(NamedTuple):
    """One epoch of one network. The step of ``training`` has been captured."""

    training: CapturedTraining
    seed: int
    epoch: int
    scheduler: LambdaLR


def can_share_a_device(training: CapturedTraining | None) -> bool:
    """Whether the steps of a training can run beside others: they are captured and draw no random numbers."""
    return training is not None and training.replay is not None and not training.draws_random_numbers


def train_side_by_side(epochs: Sequence[NextEpoch], on_step: Callable[[int], None] | None = None) -> list[Tensor]:
    """Train one epoch of each network, a step of each in turn; returns the losses (steps,) of each.

    Args:
        epochs: have the same number of steps.
        on_step: called after each step of all networks, with the number of steps done.

    Raises:
        ValueError: numbers of steps differ, or :func:`can_share_a_device` is false for a training.
        RuntimeError: a state was loaded into a network after the capture.
    """
    steps = {each.training.step.steps for each in epochs}
    if len(steps) != 1 or not all(can_share_a_device(each.training) for each in epochs):
        raise ValueError("captured steps that draw no random numbers, equally many of each, can run side by side")
    device = epochs[0].training.step.batches.device
    streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in epochs]
    with ExitStack() as stack:
        replays: list[Replay] = [
            stack.enter_context(training.epoch(seed, epoch, scheduler)) for training, seed, epoch, scheduler in epochs
        ]
        for stream in streams:
            if stream is not None:  # what was loaded for the epoch
                stream.wait_stream(torch.cuda.current_stream(device))
        for number in range(steps.pop()):
            for replay, stream in zip(replays, streams, strict=True):
                with torch.cuda.stream(stream):  # on a CPU there is none, and this does nothing
                    replay()
            if on_step is not None:
                on_step(number + 1)
        for stream in streams:
            if stream is not None:
                torch.cuda.current_stream(device).wait_stream(stream)
    return [each.training.step.losses.clone() for each in epochs]
