"""Progress of long work: a bar on a terminal, otherwise a line every ten seconds (under DVC, in CI, in a log)."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
LINE_EVERY_S = 10.0


class Reporter:
    """Progress of one task of ``total`` steps; created by :func:`progress`."""

    def __init__(self, title: str, total: int, bar: Progress | None):
        self.title, self.total, self.bar = title, total, bar
        self.started = self.printed = time.monotonic()
        self.task = bar.add_task(title, total=total, note="") if bar else None

    def update(self, done: float, note: str = "") -> None:
        """Show that ``done`` of the steps are finished; ``note`` is shown after the bar."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self.printed >= LINE_EVERY_S:
            self.printed = now
            left = (now - self.started) * (self.total - done) / done if done else float("inf")
            print(f"{self.title}: {done:.1f}/{self.total} {note} ({left:.0f} s left)", flush=True)


class Timeline:
    """Wall time of a stage's phases, measured from the start of its process."""

    def __init__(self) -> None:
        self.last = psutil.Process().create_time()
        self.seconds: dict[str, float] = {}

    def mark(self, name: str, at: float | None = None) -> None:
        """End the phase ``name`` now, or at the time ``at`` (seconds since the epoch)."""
        at = at or time.time()
        self.seconds[name] = self.seconds.get(name, 0.0) + at - self.last
        self.last = at

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.1f} s: {parts}"


def print_duration(stage: str) -> None:
    """Print the wall time of a stage, since the start of this process."""
    print(f"{stage}: {time.time() - psutil.Process().create_time():.1f} s", flush=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Reporter]:
    """A :class:`Reporter` that is shown while the block runs."""
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
    """Yield ``items``, showing how many of ``total`` have been taken."""
    with progress(title, total) as reporter:
        for done, item in enumerate(items):
            reporter.update(done)
            yield item
        reporter.update(total)
