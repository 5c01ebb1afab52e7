"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere (under DVC, in CI, in a log)."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
PLAIN_EVERY_S = 10.0


class Reporter:
    """Follows one piece of work of ``total`` steps; made by :func:`progress`."""

    def __init__(self, title: str, total: int, bar: Progress | None):
        self.title, self.total, self.bar = title, total, bar
        self.started = self.said = time.monotonic()
        self.task = bar.add_task(title, total=total, note="") if bar else None

    def update(self, done: float, note: str = "") -> None:
        """Say that ``done`` of the total steps are finished; ``note`` stands behind the bar."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self.said >= PLAIN_EVERY_S:
            self.said = now
            left = (now - self.started) * (self.total - done) / done if done else float("inf")
            print(f"{self.title}: {done:.1f}/{self.total} {note} ({left:.0f} s left)", flush=True)


class Timeline:
    """Where the seconds of a stage went, from the start of its process on: a name for each stretch between marks."""

    def __init__(self) -> None:
        self.last = psutil.Process().create_time()
        self.seconds: dict[str, float] = {}

    def mark(self, name: str, at: float | None = None) -> None:
        """End a stretch of ``name`` now, or at the time ``at`` (seconds since the epoch)."""
        at = at or time.time()
        self.seconds[name] = self.seconds.get(name, 0.0) + at - self.last
        self.last = at

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.1f} s: {parts}"


@contextmanager
def progress(title: str, total: int) -> Iterator[Reporter]:
    """A :class:`Reporter` for as long as the block runs."""
    console = Console()
    if not console.is_terminal:
        yield Reporter(title, total, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        yield Reporter(title, total, bar)


def track(title: str, items: Iterable[Item], total: int) -> Iterator[Item]:
    """Yield ``items`` while showing how many of ``total`` have been taken."""
    with progress(title, total) as reporter:
        for done, item in enumerate(items):
            reporter.update(done)
            yield item
        reporter.update(total)
