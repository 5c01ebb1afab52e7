"""Messages from the workers to the driver: from rank 0, or from each worker that trains seeds of its own."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from pipelines.outputs.trained_models import Metrics
from pipelines.training.precision import Precision
from stn.theta_trouble import Trouble


class WorkersStarted(NamedTuple):
    """All workers have started and loaded the data.

    Args:
        time: seconds since the Unix epoch.
        device: torch's name of the device.
        precision: dtype of autocast, and why it was chosen.
        workers: number of workers that share a batch.
        resumed: seed → epochs that earlier starts have finished, for seeds that have a checkpoint.
        notes: one line for each unreadable checkpoint.
    """

    time: float
    device: str
    precision: Precision
    workers: int
    resumed: Mapping[int, int]
    notes: list[str]


class SeedStarted(NamedTuple):
    """The training of a seed starts or continues."""

    seed: int


class StepByStep(NamedTuple):
    """A GPU trains without the captured step that ``train.capture: auto`` asks for; ``reason`` says why."""

    reason: str


class StepsDone(NamedTuple):
    """Part of an epoch is done. ``epochs`` is the number of finished epochs of this seed, with a fraction."""

    seed: int
    epochs: float
    images_per_second: float


class EpochDone(NamedTuple):
    """An epoch is finished, and a checkpoint of this or a later epoch is stored.

    Args:
        time: seconds since the Unix epoch.
        trouble: each kind of trouble that θ of this seed has had → the epoch in which it was seen first.
    """

    time: float
    seed: int
    metrics: Metrics
    trouble: Mapping[Trouble, int]


class NotFinite(NamedTuple):
    """The loss of a seed became infinite or NaN, and its training has ended.

    Args:
        others_go_on: whether the other seeds are trained to their end.
    """

    seed: int
    reason: str
    others_go_on: bool


Message = WorkersStarted | SeedStarted | StepByStep | StepsDone | EpochDone | NotFinite


class Sender(Protocol):
    """Takes the messages."""

    def send(self, message: Message) -> None:
        """Send a message without waiting for its arrival."""
        ...

    def send_and_wait(self, message: Message) -> None:
        """Send a message and return after its arrival."""
        ...
