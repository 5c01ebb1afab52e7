"""The trials of a study while it runs: a live table on a terminal, a plain line for each finished trial elsewhere."""

import time

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.tuning.study import reason

BEST = 5


class TrialsTable:
    """Shows the running trials and the best of the finished ones; a context manager.

    Args:
        title: stands before every line.
        total: number of trials to be finished.
        epochs: of a trial.
        before: trials finished by earlier starts.
    """

    def __init__(self, title: str, total: int, epochs: int, before: list[FrozenTrial]):
        self.title, self.total, self.epochs = title, total, epochs
        self.trials, self.before = list(before), len(before)
        self.started = time.monotonic()
        console = Console()
        self.live = Live(console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> "TrialsTable":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        if self.live is not None:
            self.live.stop()

    def finished(self, trial: FrozenTrial) -> None:
        """Take note of a finished trial."""
        self.trials.append(trial)
        if self.live is None:
            print(f"{self.title}: trial {trial.number} {outcome(trial)}; {self._standing()}", flush=True)
        elif trial.state == TrialState.FAIL:  # the table has no room for reasons
            self.live.console.print(f"{self.title}: trial {trial.number} {outcome(trial)}", highlight=False)

    def show(self, running: dict[str, list[dict[str, float]]]) -> None:
        """Show the running trials, number → history."""
        if self.live is None:
            return
        table = Table("trial", "state", "epochs", "validation accuracy")
        for number, history in running.items():
            accuracy = f"{history[-1]['validation_accuracy']:.2%}" if history else ""
            table.add_row(number, "running", f"{len(history)}/{self.epochs}", accuracy)
        table.add_section()
        for trial in self._best():
            table.add_row(str(trial.number), "finished", f"{self.epochs}/{self.epochs}", f"{trial.value:.2%}")
        self.live.update(Group(Text(f"{self.title}: {self._standing()}"), table))

    def _best(self) -> list[FrozenTrial]:
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return sorted(complete, key=lambda trial: -(trial.value or 0.0))[:BEST]

    def _standing(self) -> str:
        done, best = len(self.trials), self._best()
        leader = f", best trial {best[0].number} with {best[0].value:.2%}" if best else ""
        new = done - self.before
        left = f", {(time.monotonic() - self.started) / new * (self.total - done):.0f} s left" if new else ""
        return f"{done}/{self.total}{leader}{left}"


def outcome(trial: FrozenTrial) -> str:
    """What became of a finished trial, in words."""
    if trial.state == TrialState.COMPLETE:
        return f"reached {trial.value:.2%}"
    if trial.state == TrialState.PRUNED:
        last = max(trial.intermediate_values)
        return f"was pruned after epoch {last} at {trial.intermediate_values[last]:.2%}"
    return f"failed: {reason(trial)}"
