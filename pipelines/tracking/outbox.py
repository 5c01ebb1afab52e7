"""Persistent queue of MLflow updates: delivered in order, kept in the state folder until the store has them.

Training never waits for the store. A thread delivers the updates. It retries while the store is slow or unreachable.
Updates that a stage could not deliver, or left behind when it was killed, are delivered by the next command that
reaches the store.
"""

import base64
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from pipelines.runtime.environment import redact
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import write_text
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import key_of
from pipelines.tracking.queue_file import open_queue
from pipelines.tracking.store_requests import describe_store_error, short_timeouts
from pipelines.tracking.store_writer import StoreWriter, is_final, next_batch
from pipelines.tracking.updates import (
    Action,
    CreateRun,
    Describe,
    LogEpoch,
    LogFile,
    LogSample,
    LogSummary,
    SetStatus,
    Update,
)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
# How long a finished stage waits for a store that does not answer: as long as a server takes to restart.
PATIENCE_S = 60.0
PATIENCE_OF_OTHERS_S = 10.0  # of a command that delivers another process's updates
PATIENCE_AFTER_ERROR_S = 5.0


class Outbox(threading.Thread):
    """Queue of one stage's updates, delivered in order while the block runs.

    At its end the block waits for the remaining updates as long as the store accepts some every ``patience`` seconds.
    Updates that are still pending then stay in the file.

    Args:
        client: client of the store.
        name: name of the file in ``state/delivery``; updates that an earlier process left there are delivered first.
        patience: seconds to wait at the end for a store that does not answer.
        wait: wait for another process that delivers from the same file.

    Raises:
        ExternalError: on entering, if there is such a process and ``wait`` is False.
    """

    def __init__(self, client: MlflowClient, name: str, *, patience: float = PATIENCE_S, wait: bool = True):
        super().__init__(daemon=True, name=f"delivery of {name}")
        self.client, self.patience, self.wait = client, patience, wait
        self.writer = StoreWriter(client)
        self.path = pending_folder(client) / f"{name}.jsonl"
        self.pending: deque[Update] = deque()
        self.changed = threading.Condition()
        self.ending, self.stopped = threading.Event(), False
        self.delayed = 0  # updates of an earlier process, or delayed because the store did not answer
        self.problem = ""
        self.refused: set[str] = set()  # keys of runs for which a refusal was printed

    def __enter__(self) -> "Outbox":
        with ExitStack() as stack:
            self.file = stack.enter_context(open_queue(self.path, self.wait))
            stack.enter_context(short_timeouts())
            self.pending.extend(self.file.read())
            self.delayed = len(self.pending)
            self.start()
            self.resources = stack.pop_all()
        return self

    def __exit__(self, kind, *_) -> None:
        with self.changed:
            self.ending.set()
            self.changed.notify_all()
        before = -1
        while self.is_alive() and len(self.pending) != before:
            before = len(self.pending)
            self.join(self.patience if kind is None else min(self.patience, PATIENCE_AFTER_ERROR_S))
        with self.changed:
            self.stopped = True
            left = list(self.pending)
            with suppress(OSError):  # the file then still has delivered updates; to deliver them again has no effect
                self.file.keep_only(left)
            self.resources.close()
        if left:
            print(
                f"tracking store: {len(left)} updates could not be delivered ({self.problem or 'too slow'}); they are "
                f"kept in {self.path}, and the next stage, or make doctor, delivers them", flush=True,
            )  # fmt: skip

    def put(self, update: Update) -> None:
        """Append an update to the queue; it is in the file when this returns.

        Raises:
            OSError: the file cannot be written; the update is then not in the queue.
        """
        with self.changed:
            self.file.append(update)
            self.pending.append(update)
            self.changed.notify_all()

    def run(self) -> None:
        """Deliver until the block has ended and the queue is empty, or until the block stops waiting."""
        pause = FIRST_PAUSE_S
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.pending or self.ending.is_set())
                if self.stopped or not self.pending:
                    return
                batch = next_batch(self.pending)
            try:
                self.writer.apply(batch)
            except Exception as error:  # of any kind: no bug may lose updates
                if not is_final(error):
                    self._report_outage(error)
                    if not self.ending.wait(pause):
                        pause = min(2 * pause, LONGEST_PAUSE_S)
                    else:
                        time.sleep(FIRST_PAUSE_S)
                    continue
                self._report_refusal(batch[0].key, error)
            pause = FIRST_PAUSE_S
            self._remove(len(batch))

    def _remove(self, count: int) -> None:
        """Remove the first ``count`` updates from the queue; they are delivered or refused."""
        with self.changed:
            if self.stopped:
                return
            for _ in range(count):
                self.pending.popleft()
            self.delayed += count if self.problem else 0
            if self.pending:
                return
            self.file.clear()
            if self.delayed:
                print(f"tracking store: {self.delayed} pending updates are delivered", flush=True)
            self.delayed, self.problem = 0, ""

    def _report_outage(self, error: Exception) -> None:
        reason = describe_store_error(error)
        if not self.problem:
            consequence = "work continues, and updates are kept until it does"
            print(f"tracking store: does not answer ({reason}); {consequence}", flush=True)
        self.problem = reason

    def _report_refusal(self, key: str, error: Exception) -> None:
        if key not in self.refused:
            reason = describe_store_error(error)
            print(f"tracking store: updates of the run {key} are refused and dropped: {reason}", flush=True)
        self.refused.add(key)


class Run:
    """A run that is updated through an outbox and identified by its key."""

    def __init__(self, outbox: Outbox, experiment: str, key: str):
        self.outbox, self.experiment, self.key = outbox, experiment, key

    def open(self, name: str, parent: str) -> None:
        """Create the run if it is missing, as a child of ``parent`` (a run id)."""
        self._put(CreateRun(name, parent))

    def describe(self, params: dict[str, Any] | None = None, tags: dict[str, str] | None = None) -> None:
        """Log parameters and tags."""
        self._put(Describe({name: str(value) for name, value in (params or {}).items()}, tags or {}))

    def log_epoch(self, entry: dict[str, float]) -> None:
        """Log one epoch's metrics; ``entry`` also holds the ``epoch`` and its ``timestamp`` (ms)."""
        metrics = {name: value for name, value in entry.items() if name not in ("epoch", "timestamp")}
        self._put(LogEpoch(metrics, int(entry["epoch"])), int(entry["timestamp"]))

    def log_sample(self, metrics: dict[str, float], step: int) -> None:
        """Log a current measurement, such as the machine's load."""
        self._put(LogSample(metrics, step))

    def log_summary_metrics(self, metrics: dict[str, float]) -> None:
        """Log metrics that the run has once, such as its test accuracy; they supersede earlier values."""
        self._put(LogSummary(metrics))

    def log_file(self, file: Path, folder: str) -> None:
        """Copy a file, with its present content, into the run's artifacts under ``folder``."""
        self._put(LogFile(file.name, folder, base64.b64encode(file.read_bytes()).decode()))

    def status(self, status: str) -> None:
        """Set the status, as of now: SCHEDULED, RUNNING, FINISHED, FAILED or KILLED."""
        self._put(SetStatus(status))

    def _put(self, action: Action, time_ms: int | None = None) -> None:
        now = int(time.time() * 1000)
        self.outbox.put(Update(self.experiment, self.key, now if time_ms is None else time_ms, action))


def deliver_pending(client: MlflowClient) -> None:
    """Deliver the updates for this store that earlier processes left; files of a running process are skipped."""
    for path in sorted(pending_folder(client).glob("*.jsonl")):
        with suppress(ExternalError), Outbox(client, path.stem, patience=PATIENCE_OF_OTHERS_S, wait=False):
            pass


def pending_folder(client: MlflowClient) -> Path:
    """Folder of updates pending for this store; each store has its own."""
    address = redact(client.tracking_uri)
    folder = state_dir("delivery", key_of(address))
    if not (folder / "store").exists():
        write_text(folder / "store", address + "\n")
    return folder
