"""Updates of MLflow runs, and the JSON lines that keep them on disk until they are delivered.

A line holds the update's ``experiment``, ``key`` and ``time``, its kind as ``do``, and the fields of that kind. Lines
that an older version left must stay readable: do not rename kinds or fields.
"""

import json
from typing import NamedTuple


class CreateRun(NamedTuple):
    """Create the run if it is missing, as a child of ``parent`` (a run id)."""

    name: str
    parent: str


class LogEpoch(NamedTuple):
    """Log the metrics of one epoch, unless the store has that epoch."""

    metrics: dict[str, float]
    step: int


class LogSample(NamedTuple):
    """Log one measurement, such as the machine's load."""

    metrics: dict[str, float]
    step: int


class Describe(NamedTuple):
    """Log parameters and tags."""

    params: dict[str, str]
    tags: dict[str, str]


class LogSummary(NamedTuple):
    """Log metrics that a run has once; they supersede earlier values."""

    metrics: dict[str, float]


class LogFile(NamedTuple):
    """Write a file, its content in Base64, into the run's artifacts."""

    name: str
    folder: str
    content: str


class SetStatus(NamedTuple):
    """Set the run's status: SCHEDULED, RUNNING, FINISHED, FAILED or KILLED."""

    status: str


Action = CreateRun | LogEpoch | LogSample | Describe | LogSummary | LogFile | SetStatus
ACTIONS: dict[str, type[Action]] = {
    "open": CreateRun,
    "epoch": LogEpoch,
    "sample": LogSample,
    "describe": Describe,
    "figures": LogSummary,
    "file": LogFile,
    "status": SetStatus,
}
KINDS = {action: kind for kind, action in ACTIONS.items()}


class Update(NamedTuple):
    """One change of the run with a key: in which experiment, when (ms since the epoch), and what."""

    experiment: str
    key: str
    time: int
    action: Action

    def to_line(self) -> bytes:
        """The update as one line of JSON."""
        kind = KINDS[type(self.action)]
        entry = {"experiment": self.experiment, "key": self.key, "do": kind, "time": self.time}
        return json.dumps(entry | self.action._asdict()).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Update":
        """Parse a line written by :meth:`to_line`."""
        entry = json.loads(line)
        experiment, key, time = entry.pop("experiment"), entry.pop("key"), entry.pop("time")
        action = ACTIONS[entry.pop("do")]
        return cls(experiment, key, time, action(**entry))
