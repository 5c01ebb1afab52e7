"""Handles the workers' messages on the driver: shows progress on the terminal and records epochs in MLflow."""

from collections.abc import Callable, Mapping

from pipelines.outputs.trained_models import Metrics, trouble_tags
from pipelines.runtime.errors import describe_os_error
from pipelines.runtime.progress import Reporter
from pipelines.tracking.client import TrainingRun
from pipelines.training.messages import (
    EpochDone,
    Message,
    NotFinite,
    SeedStarted,
    StepByStep,
    StepsDone,
    WorkersStarted,
)
from stn.theta_trouble import Trouble


class RunRecorder:
    """Records epochs in the MLflow run of each seed.

    It stops recording when the disk is full. The driver logs the missing epochs from the checkpoint at the end.
    """

    def __init__(self, runs: Mapping[int, TrainingRun]):
        self.runs = runs
        self.running: dict[int, TrainingRun] = {}
        self.recording = True

    def start(self, seed: int) -> None:
        """Mark the seed's run as running."""
        if seed not in self.running:
            self.running[seed] = self.runs[seed]
            self._record(self.runs[seed].start)

    def log_epoch(self, seed: int, metrics: Metrics) -> None:
        """Log one epoch's metrics."""
        self._record(lambda: self.runs[seed].log_epoch(metrics))

    def log_trouble(self, seed: int, trouble: Mapping[Trouble, int]) -> None:
        """Set the tag that names the trouble of a seed's θ."""
        self._record(lambda: self.runs[seed].describe(tags=trouble_tags(trouble)))

    def end(self, status: str, seed: int | None = None) -> None:
        """End the run of a seed, or by default all that are running. ``status`` is FINISHED, FAILED or KILLED."""
        for ended in list(self.running) if seed is None else [seed]:
            run = self.running.pop(ended, None)
            if run is not None:
                self._record(lambda run=run: run.end(status))

    def _record(self, write: Callable[[], None]) -> None:
        try:
            if self.recording:
                write()
        except OSError as error:  # must not hide the reason why training ends
            print(f"{describe_os_error(error)}; later epochs will be logged at the end", flush=True)
            self.recording = False


class Listener:
    """Handles each message, and keeps what the driver needs after training.

    Args:
        runs: the MLflow run of each seed, in the order of training.
        reporter: shows the finished epochs of all seeds.
        epochs: epochs of each seed.

    Attributes:
        started: the last :class:`WorkersStarted`. Elastic training sends one for each number of workers.
        first_start, last_epoch: times of the first :class:`WorkersStarted` and the last :class:`EpochDone`.
        not_finite: seed → reason, for seeds whose loss became infinite or NaN.
    """

    def __init__(self, runs: Mapping[int, TrainingRun], reporter: Reporter, epochs: int):
        self.recorder = RunRecorder(runs)
        self.reporter, self.epochs = reporter, epochs
        self.done = dict.fromkeys(runs, 0.0)  # epochs of each seed
        self.started: WorkersStarted | None = None
        self.first_start: float | None = None
        self.last_epoch: float | None = None
        self.not_finite: dict[int, str] = {}
        self.accuracy_note = ""

    def handle(self, message: Message) -> None:
        """Show and record one message."""
        match message:
            case WorkersStarted():
                self._show_start(message)
            case SeedStarted(seed):
                self.not_finite.pop(seed, None)  # a replaced worker tries it again
                self.recorder.start(seed)
            case StepByStep(reason):
                print(f"training goes step by step, without a captured step: {reason}", flush=True)
            case StepsDone(seed, epochs, images_per_second):
                self._show_progress(seed, epochs, images_per_second)
            case EpochDone(time, seed, metrics, trouble):
                self.last_epoch = time
                accuracy, balanced = metrics["validation_accuracy"], metrics["validation_balanced_accuracy"]
                self.accuracy_note = f" · validation accuracy {accuracy:.2%}, balanced {balanced:.2%}"
                self._show_progress(seed, metrics["epoch"], metrics["images_per_second"])
                self.recorder.log_epoch(seed, metrics)
                self._show_trouble(seed, int(metrics["epoch"]), trouble)
                if metrics["epoch"] == self.epochs:
                    self.recorder.end("FINISHED", seed)
            case NotFinite(seed, reason, others_go_on):
                self.not_finite[seed] = reason
                self.recorder.end("FAILED", seed)
                if others_go_on:
                    print(f"{self.reporter.title}: seed {seed}: {reason}; the other seeds go on", flush=True)

    def _show_start(self, message: WorkersStarted) -> None:
        self.first_start = self.first_start or message.time
        if self.started is not None and message.workers != self.started.workers:
            print(f"{message.workers} worker(s) now, {self.started.workers} before", flush=True)
        self.started = message
        for note in message.notes:
            print(note, flush=True)
        print(f"{message.device}, {message.precision.dtype}: {message.precision.reason}", flush=True)
        self.done = dict.fromkeys(self.done, 0.0) | dict(message.resumed)
        if resumed := sum(message.resumed.values()):
            print(f"resumed after {resumed} of {self.reporter.total} epochs", flush=True)

    def _show_trouble(self, seed: int, epoch: int, trouble: Mapping[Trouble, int]) -> None:
        """Print and record the kinds of trouble that were seen first in this epoch."""
        new = [kind for kind, first in trouble.items() if first == epoch]
        for kind in new:
            print(
                f"{self.reporter.title}: seed {seed}, epoch {epoch}: {kind.description}; "
                "see Trouble in docs/evaluation.md", flush=True,
            )  # fmt: skip
        if new:
            self.recorder.log_trouble(seed, trouble)

    def _show_progress(self, seed: int, epochs: float, images_per_second: float) -> None:
        note = f"seed {seed} · {images_per_second:,.0f} images/s{self.accuracy_note}"
        self.done[seed] = epochs
        self.reporter.update(sum(self.done.values()), note)
