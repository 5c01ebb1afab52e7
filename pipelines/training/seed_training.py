"""The training of one seed: its trainer, its checkpoints, and its messages to the driver."""

import math
import time
from collections.abc import Callable

from pipelines.outputs.trained_models import Metrics
from pipelines.training.checkpoints import CheckpointWriter
from pipelines.training.messages import EpochDone, NotFinite, Sender, StepByStep, StepsDone
from pipelines.training.precision import Precision
from pipelines.training.state import SeedState, serialize
from pipelines.training.trainer import Trainer
from stn.theta_trouble import first_epochs
from stn.training import NotFiniteError

REPORT_EVERY_S = 1.0
# A GPU can train an epoch in less time than a checkpoint takes. A kill costs this much work more.
CHECKPOINT_EVERY_S = 1.0


class SeedTraining:
    """The training of one seed. On rank 0 it stores checkpoints and sends messages."""

    def __init__(self, trainer: Trainer, precision: Precision, checkpoints: CheckpointWriter, sender: Sender):
        self.trainer, self.precision, self.checkpoints, self.sender = trainer, precision, checkpoints, sender
        self._stored = -math.inf
        self._unsent: list[EpochDone] = []

    def end_epoch(self, outcome: Metrics | NotFiniteError, *, others_go_on: bool) -> None:
        """Store a checkpoint if it is time for one, and send the metrics of an epoch, or why the training failed."""
        trainer = self.trainer
        if isinstance(outcome, NotFiniteError):
            self.sender.send_and_wait(NotFinite(trainer.seed, str(outcome), others_go_on))
            return
        if trainer.done == 1 and (reason := reason_for_eager_steps(trainer)):
            self.sender.send(StepByStep(reason))
        trouble = first_epochs(trainer.history, trainer.epochs)
        self._unsent.append(EpochDone(time.time(), trainer.seed, outcome, trouble))
        if trainer.done == trainer.epochs or time.monotonic() - self._stored >= CHECKPOINT_EVERY_S:
            self.checkpoints.write(serialize(SeedState.of(trainer, self.precision)), trainer.done)
            self._stored = time.monotonic()
            # An epoch that is not stored is trained again after a kill, and would be logged twice.
            for message in self._unsent:
                self.sender.send(message)
            self._unsent = []

    def step_reporter(self) -> Callable[[int], None]:
        """A callback for the steps of the next epoch that sends :class:`StepsDone` about once a second."""
        trainer, epoch, started = self.trainer, self.trainer.done, time.monotonic()
        reported = started

        def report(step: int) -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported >= REPORT_EVERY_S:
                reported = now
                images_per_second = step * trainer.recipe.batch_size / (now - started)
                self.sender.send(StepsDone(trainer.seed, epoch + step / trainer.steps, images_per_second))

        return report


def reason_for_eager_steps(trainer: Trainer) -> str | None:
    """Say why a trainer on a GPU has not captured its step; None if it has, or if ``train.capture`` is off."""
    wanted = trainer.training.device.type == "cuda" and trainer.recipe.capture != "off"
    return trainer.reason_against_capture if wanted and trainer.captured is None else None
