"""Display of a study's trials: a live table on a terminal, else a line of text for each finished trial."""

import time
from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.settings.metric import Metric
from pipelines.tuning.study import failure_reason

BEST = 5


class TrialsTable:
    """Shows the running trials and the best finished ones; a context manager.

    Args:
        title: printed before every line.
        total: number of trials to finish.
        epochs: epochs of a trial.
        finished: trials that earlier starts finished.
        metric: the objective.
    """

    def __init__(self, title: str, total: int, epochs: int, finished: list[FrozenTrial], metric: Metric):
        self.title, self.total, self.epochs, self.metric = title, total, epochs, metric
        self.finished, self.finished_before = list(finished), len(finished)
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

    def add_finished(self, trial: FrozenTrial) -> None:
        """Add a trial that has just finished."""
        self.finished.append(trial)
        line = f"{self.title}: trial {trial.number} {describe_outcome(trial, self.metric)}"
        if self.live is None:
            print(f"{line}; {self._summary()}", flush=True)
        elif trial.state == TrialState.FAIL:  # the table has no column for reasons
            self.live.console.print(line, highlight=False)

    def show(self, running: Mapping[int, Sequence[float]]) -> None:
        """Update the table; ``running`` maps each running trial's number to its objective after each epoch."""
        if self.live is None:
            return
        table = Table("trial", "state", "epochs", f"validation {self.metric.label}")
        for number, scores in running.items():
            score = f"{scores[-1]:.2%}" if scores else ""
            table.add_row(str(number), "running", f"{len(scores)}/{self.epochs}", score)
        table.add_section()
        for trial in self._best():
            table.add_row(str(trial.number), "finished", f"{self.epochs}/{self.epochs}", f"{trial.value:.2%}")
        self.live.update(Group(Text(f"{self.title}: {self._summary()}"), table))

    def _best(self) -> list[FrozenTrial]:
        complete = [trial for trial in self.finished if trial.state == TrialState.COMPLETE]
        return sorted(complete, key=lambda trial: -(trial.value or 0.0))[:BEST]

    def _summary(self) -> str:
        done, best = len(self.finished), self._best()
        leader = f", best trial {best[0].number} with {best[0].value:.2%}" if best else ""
        new = done - self.finished_before
        left = f", {(time.monotonic() - self.started) / new * (self.total - done):.0f} s left" if new else ""
        return f"{done}/{self.total}{leader}{left}"


def describe_outcome(trial: FrozenTrial, metric: Metric) -> str:
    """Describe how a trial finished, as the predicate of a sentence; ``metric`` is the objective."""
    if trial.state == TrialState.COMPLETE:
        return f"reached {trial.value:.2%} validation {metric.label}"
    if trial.state == TrialState.PRUNED:
        last = max(trial.intermediate_values)
        return f"was pruned after epoch {last} at {trial.intermediate_values[last]:.2%} validation {metric.label}"
    return f"failed: {failure_reason(trial)}"
