"""A training step that a GPU repeats without Python.

A step of a small network takes a GPU less time than Python needs to start its kernels. A CUDA graph records the kernels
of one :class:`~stn.static_step.StaticStep` and starts all of them at once.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stn.averaging import WeightAverage
from stn.batches import Batches
from stn.classifiers import Network
from stn.cuda_graph import Replay, capture_function
from stn.pixels import DeviceStore
from stn.settings import Recipe
from stn.static_step import Drawn, StaticStep, learning_rates

CAPTURE_OR_PIN = Lock()
"""Held by a capture, during which no thread may ask for pinned memory, and by a thread that asks for it."""
WARM_UP = 3  # steps before the capture, in which libraries choose kernels and allocate memory


class CaptureError(RuntimeError):
    """The step cannot be captured. Network, optimizer and random state are as before."""


def reason_against_capture(device: torch.device, world_size: int = 1) -> str | None:
    """Say why the steps of a training cannot be captured; None if nothing is known against it."""
    if device.type != "cuda":
        return "only a GPU can repeat a step"
    if world_size > 1:
        return "several workers exchange gradients in each step"
    return None


def reason_against_capture_with(batches: Batches, world_size: int = 1) -> str | None:
    """Say why the steps of a training with these images cannot be captured; None if nothing is known against it."""
    on_device = isinstance(batches.store, DeviceStore)
    return reason_against_capture(batches.device, world_size) or (
        None if on_device else "the images do not fit on the GPU"
    )


def captured_training(
    network: Network, optimizer: Optimizer, batches: Batches, recipe: Recipe, *,
    precision: torch.dtype, class_weights: Tensor | None = None, average: WeightAverage | None = None,
    world_size: int = 1,
) -> tuple["CapturedTraining | None", str]:  # fmt: skip
    """Return what trains by a captured step, as ``recipe.capture`` asks, or None and the reason why not.

    Raises:
        ValueError: ``capture`` is ``on``, and the step cannot be captured.
    """
    reason = reason_against_capture_with(batches, world_size)
    if reason and recipe.capture == "on":
        raise ValueError(f"capture: on given, but {reason}")
    if reason or recipe.capture == "off":
        return None, reason or "capture: off"
    step = StaticStep(
        network, optimizer, batches, recipe, precision=precision, class_weights=class_weights, average=average
    )
    return CapturedTraining(step, capture_graph), ""


class CapturedTraining:
    """Trains epochs with a step that is captured before the first one.

    Args:
        step: the step. Its network and optimizer have the state from which the training starts or continues. Loading
            another state into them later is refused: it would have other addresses.
        capture: captures the step and returns what repeats it, :func:`capture_graph` or :func:`run_eagerly`.

    Attributes:
        replay: what repeats the step; None before the first epoch.
        draws_random_numbers: whether the step uses torch's random generator, as dropout does. Known after the capture.
    """

    def __init__(self, step: StaticStep, capture: Callable[[StaticStep], Replay]):
        self.step, self.capture = step, capture
        self.replay: Replay | None = None
        self.draws_random_numbers = False
        self.addresses: list[int] = []
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[tuple[int, int], Future] | None = None

    def train_epoch(
        self, seed: int, epoch: int, scheduler: LambdaLR, on_step: Callable[[int], None] | None = None
    ) -> Tensor:
        """Train one epoch; returns the loss of each step, (steps,). The random state is used as by an eager epoch.

        While the device trains, the next epoch is drawn.

        Raises:
            CaptureError: the step cannot be captured.
            RuntimeError: a state was loaded after the capture.
        """
        with self.epoch(seed, epoch, scheduler) as replay:
            for number in range(self.step.steps):
                replay()
                if on_step is not None:
                    on_step(number + 1)
        return self.step.losses.clone()

    @contextmanager
    def epoch(self, seed: int, epoch: int, scheduler: LambdaLR) -> Iterator[Replay]:
        """Prepare an epoch; yields what performs one of its ``step.steps`` steps. The schedule advances at the end.

        Raises:
            CaptureError: the step cannot be captured.
            RuntimeError: a state was loaded after the capture.
        """
        step, groups = self.step, self.step.optimizer.param_groups
        drawn = self._draw(seed, epoch).result()
        more = epoch + 1 < step.recipe.epochs
        self._next = ((seed, epoch + 1), self._draw(seed, epoch + 1)) if more else None
        step.load(drawn, learning_rates(scheduler, step.steps))
        try:
            for group, rate in zip(groups, step.rate, strict=True):
                group["lr"] = rate
            if self.replay is None:
                self.replay = self._capture()
                self.addresses = [tensor.data_ptr() for tensor in step.tensors()]
            if self.addresses != [tensor.data_ptr() for tensor in step.tensors()]:
                raise RuntimeError("a state was loaded after the step was captured; make a new CapturedTraining")
            yield self.replay
        finally:
            for group, rate in zip(groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        for _ in range(step.steps):
            scheduler.step()
        if step.average is not None:
            step.average.steps += step.steps

    def _draw(self, seed: int, epoch: int) -> Future:
        """Draw an epoch in another thread, unless that was done ahead."""
        if self._next is not None and self._next[0] == (seed, epoch):
            return self._next[1]
        step, pinned = self.step, self.step.batches.device.type == "cuda"

        def draw() -> Drawn:
            drawn = step.draw(seed, epoch)
            if not pinned:
                return drawn
            with CAPTURE_OR_PIN:
                return drawn.map(Tensor.pin_memory)

        return self._pool.submit(draw)

    def _capture(self) -> Replay:
        """Warm up and capture the step, then restore network, optimizer and random state in place."""
        step, before = self.step, _State(self.step)
        try:
            with _capturable(step.optimizer):
                for _ in range(WARM_UP):
                    step.counter.zero_()
                    step.run()
                step.counter.zero_()
                self.draws_random_numbers = not before.random_state_is_the_same()
                with CAPTURE_OR_PIN:
                    return self.capture(step)
        except RuntimeError as error:
            raise CaptureError(str(error).partition("\n")[0]) from error
        finally:
            before.restore()
            step.counter.zero_()


class _State:
    """The values of what a step changes, of an optimizer and of the random generators."""

    def __init__(self, step: StaticStep):
        self.step = step
        self.values = [(tensor, tensor.detach().clone()) for tensor in step.trained()]
        self.states = {key: value.clone() for key, value in step.states().items()}
        self.random = torch.get_rng_state()
        self.device = step.batches.device
        self.random_on_gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def random_state_is_the_same(self) -> bool:
        """Whether no random number has been drawn since."""
        same = torch.equal(self.random, torch.get_rng_state())
        if self.random_on_gpu is not None:
            same = same and torch.equal(self.random_on_gpu, torch.cuda.get_rng_state(self.device))
        return same

    @torch.no_grad()
    def restore(self) -> None:
        """Restore all values in place. State that the optimizer did not have becomes zero, from which it starts."""
        for tensor, value in self.values:
            tensor.copy_(value)
        for key, state in self.step.states().items():
            if key in self.states:
                state.copy_(self.states[key])
            else:
                state.zero_()
        torch.set_rng_state(self.random)
        if self.random_on_gpu is not None:
            torch.cuda.set_rng_state(self.random_on_gpu, self.device)


class _capturable:
    """Tells an optimizer of torch that its steps are captured. AdamW refuses a capture otherwise."""

    def __init__(self, optimizer: Optimizer):
        on_gpu = optimizer.param_groups[0]["params"][0].device.type == "cuda"
        self.groups = [group for group in optimizer.param_groups if on_gpu and "capturable" in group]

    def __enter__(self) -> None:
        self._set(True)

    def __exit__(self, *_: Any) -> None:
        self._set(False)

    def _set(self, value: bool) -> None:
        for group in self.groups:
            group["capturable"] = value


def run_eagerly(step: StaticStep) -> Replay:
    """Repeat a step by running it: for tests, on any device."""
    return step.run


def capture_graph(step: StaticStep) -> Replay:
    """Capture a step as a CUDA graph."""
    return capture_function(step.run, step.counter.zero_)
