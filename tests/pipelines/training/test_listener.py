"""Listener: typed messages show on the terminal and are recorded; a full disk stops the recording alone."""

import errno
import os

import pytest

from pipelines.runtime.progress import Reporter
from pipelines.training.listener import Listener
from pipelines.training.messages import EpochDone, NotFinite, SeedStarted, StepByStep, StepsDone, WorkersStarted
from pipelines.training.precision import Precision
from stn.theta_trouble import Trouble

EPOCHS = 4


class Run:
    """Keeps what it is given, in order; with ``full`` it raises as an outbox does on a full disk."""

    def __init__(self, log: list, seed: int):
        self.log, self.seed, self.full = log, seed, False

    def _keep(self, *what) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "outbox.jsonl")
        self.log.append((self.seed, *what))

    def start(self) -> None:
        self._keep("start")

    def log_epoch(self, metrics: dict) -> None:
        self._keep("epoch", metrics["epoch"])

    def describe(self, tags: dict[str, str]) -> None:
        self._keep("tags", tags)

    def end(self, status: str) -> None:
        self._keep("end", status)


class Shown(Reporter):
    """Keeps the updates instead of showing them."""

    def __init__(self, total: int):
        super().__init__("stn", total, None)
        self.updates: list[tuple[float, str]] = []

    def update(self, done: float, note: str = "") -> None:
        self.updates.append((done, note))


@pytest.fixture
def log() -> list:
    return []


@pytest.fixture
def runs(log) -> dict[int, Run]:
    return {seed: Run(log, seed) for seed in (7, 3)}


@pytest.fixture
def reporter() -> Shown:
    return Shown(2 * EPOCHS)


@pytest.fixture
def listener(runs, reporter) -> Listener:
    return Listener(runs, reporter, EPOCHS)


def started(
    time: float = 5.0, workers: int = 2, resumed: dict[int, int] | None = None, notes: tuple[str, ...] = ()
) -> WorkersStarted:
    return WorkersStarted(time, "cpu", Precision("float32", "set by hand"), workers, resumed or {}, list(notes))


def epoch(number: int, seed: int, trouble: dict[Trouble, int] | None = None) -> EpochDone:
    metrics = {
        "epoch": number,
        "validation_accuracy": 0.5,
        "validation_balanced_accuracy": 0.4,
        "images_per_second": 2000.0,
    }
    return EpochDone(10.0 * number, seed, metrics, trouble or {})


def test_the_run_of_a_seed_ends_after_its_last_epoch(listener, log):
    messages = (SeedStarted(7), epoch(1, 7), SeedStarted(7), epoch(EPOCHS, 7), SeedStarted(3), epoch(1, 3))
    for message in messages:
        listener.handle(message)  # a replaced worker sends SeedStarted again
    listener.recorder.end("KILLED")
    listener.recorder.end("FINISHED")  # no run is running
    assert log == [
        (7, "start"), (7, "epoch", 1), (7, "epoch", EPOCHS), (7, "end", "FINISHED"),
        (3, "start"), (3, "epoch", 1), (3, "end", "KILLED"),
    ]  # fmt: skip
    assert listener.last_epoch == 10.0


def test_seeds_can_be_trained_side_by_side(listener, reporter, log):
    for message in (SeedStarted(7), SeedStarted(3), epoch(1, 3), epoch(1, 7), epoch(EPOCHS, 3), epoch(2, 7)):
        listener.handle(message)
    listener.recorder.end("FAILED")
    assert [entry for entry in log if entry[1] != "epoch"] == [
        (7, "start"), (3, "start"), (3, "end", "FINISHED"), (7, "end", "FAILED")
    ]  # fmt: skip
    assert [done for done, _ in reporter.updates] == [1, 2, EPOCHS + 1, EPOCHS + 2]


def test_progress_counts_all_seeds_and_shows_the_last_accuracy(listener, reporter):
    for message in (StepsDone(7, 0.5, 1000.0), epoch(EPOCHS, 7), StepsDone(3, 1.25, 1000.0)):
        listener.handle(message)
    assert reporter.updates == [
        (0.5, "seed 7 · 1,000 images/s"),
        (EPOCHS, "seed 7 · 2,000 images/s · validation accuracy 50.00%, balanced 40.00%"),
        (EPOCHS + 1.25, "seed 3 · 1,000 images/s · validation accuracy 50.00%, balanced 40.00%"),
    ]


def test_progress_counts_what_earlier_starts_have_done(listener, reporter):
    listener.handle(started(resumed={7: EPOCHS, 3: 1}))
    listener.handle(StepsDone(3, 1.5, 1000.0))
    assert [done for done, _ in reporter.updates] == [EPOCHS + 1.5]


def test_a_start_shows_notes_precision_and_what_was_resumed(listener, capsys):
    listener.handle(started(notes=("state.pt: unreadable checkpoint",), resumed={7: 3}))
    assert capsys.readouterr().out.splitlines() == [
        "state.pt: unreadable checkpoint", "cpu, float32: set by hand", "resumed after 3 of 8 epochs",
    ]  # fmt: skip
    listener.handle(started(time=9.0, workers=1))
    assert capsys.readouterr().out.splitlines() == ["1 worker(s) now, 2 before", "cpu, float32: set by hand"]
    assert listener.first_start == 5.0 and listener.started is not None and listener.started.workers == 1


def test_a_loss_that_is_not_finite_ends_its_seed_alone(listener, log, capsys):
    for message in (SeedStarted(7), SeedStarted(3), NotFinite(7, "the loss became nan", others_go_on=True)):
        listener.handle(message)
    assert capsys.readouterr().out == "stn: seed 7: the loss became nan; the other seeds go on\n"
    assert listener.not_finite == {7: "the loss became nan"}
    assert log == [(7, "start"), (3, "start"), (7, "end", "FAILED")]
    listener.recorder.end("KILLED")
    assert log[-1] == (3, "end", "KILLED")
    listener.handle(NotFinite(3, "the loss became inf", others_go_on=False))
    assert listener.not_finite.keys() == {7, 3} and capsys.readouterr().out == ""
    listener.handle(SeedStarted(7))  # after a restart of the workers
    assert listener.not_finite.keys() == {3}


def test_each_kind_of_trouble_is_printed_once_for_each_seed_and_recorded_in_a_tag(listener, log, capsys):
    outside, both = {Trouble.OUTSIDE: 2}, {Trouble.OUTSIDE: 2, Trouble.MIRRORED: 3}
    for message in (epoch(1, 7), epoch(2, 7, outside), epoch(3, 7, both), epoch(4, 7, both), epoch(2, 3, outside)):
        listener.handle(message)
    assert capsys.readouterr().out.splitlines() == [
        "stn: seed 7, epoch 2: θ looks outside the image for more than half of its grid; see Trouble in "
        "docs/evaluation.md",
        "stn: seed 7, epoch 3: θ mirrors more than half of the images; see Trouble in docs/evaluation.md",
        "stn: seed 3, epoch 2: θ looks outside the image for more than half of its grid; see Trouble in "
        "docs/evaluation.md",
    ]
    assert [entry for entry in log if entry[1] == "tags"] == [
        (7, "tags", {"theta_trouble": "outside from epoch 2"}),
        (7, "tags", {"theta_trouble": "outside from epoch 2, mirrored from epoch 3"}),
        (3, "tags", {"theta_trouble": "outside from epoch 2"}),
    ]


def test_a_full_disk_stops_the_recording_and_nothing_else(listener, runs, reporter, log, capsys):
    listener.handle(SeedStarted(7))
    runs[7].full = True
    listener.handle(epoch(1, 7))
    said = capsys.readouterr().out
    assert said == (
        "outbox.jsonl: No space left on device; free disk space there; later epochs will be logged at the end\n"
    )
    runs[7].full = False  # an epoch between two others would otherwise be missing
    for message in (epoch(2, 7), SeedStarted(3), epoch(1, 3)):
        listener.handle(message)
    listener.recorder.end("FAILED")
    assert log == [(7, "start")]
    assert [done for done, _ in reporter.updates] == [1, 2, 3] and capsys.readouterr().out == ""


def test_a_reason_for_eager_steps_is_printed(listener, capsys):
    listener.handle(StepByStep("ema: why"))
    assert "without a captured step: ema: why" in capsys.readouterr().out
