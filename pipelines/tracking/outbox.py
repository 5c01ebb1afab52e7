"""Delivery: what MLflow is to be told of runs, in order, kept in the state folder until the store has taken it.

Nobody who trains waits for the store: a thread tells it, and goes on trying where it is slow, away or at fault. All
entries can be told twice to the same effect, since an answer that was lost says nothing of the request: metrics carry
their own timestamps (MLflow drops one that it has already), a run is found by its key before it is made.

What a stage could not deliver, or was killed over, is delivered by the next command that reaches the store.
"""

import base64
import json
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from pipelines.runtime import environment
from pipelines.runtime.environment import redact
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import write_bytes, write_text
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import key_of
from pipelines.runtime.locks import locked

KEY_TAG = "training_key"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
# How long a stage that is done waits for a store that does not answer: as long as a server takes to be restarted.
PATIENCE_S = 60.0
# Of a request to a server, which MLflow would repeat for four minutes and wait for two minutes each time.
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
METRICS_IN_A_REQUEST = 1000  # MLflow's limit
# What the store will never take, such as what concerns a run that was deleted; all else may be mended.
REFUSALS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class Outbox(threading.Thread):
    """A queue of entries for one stage's runs, told in order while the block runs.

    Leaving the block waits for what is left, as long as the store takes some of it every ``patience`` seconds; what
    then remains is kept.

    Args:
        client: of the store.
        name: of the file in ``state/delivery``; what an earlier process left there is told first.
        patience: how long to wait at the end for a store that does not answer, in seconds.
        wait: for another process that delivers what has this name.

    Raises:
        ExternalError: on entering, where there is such a process and ``wait`` is False.
    """

    def __init__(self, client: MlflowClient, name: str, patience: float = PATIENCE_S, wait: bool = True):
        super().__init__(daemon=True, name=f"delivery of {name}")
        self.client, self.patience, self.wait = client, patience, wait
        self.path = folder_of(client) / f"{name}.jsonl"
        self.waiting: deque[dict[str, Any]] = deque()
        self.changed = threading.Condition()
        self.ending, self.stopped = threading.Event(), False
        self.late, self.problem = 0, ""
        self.run_ids: dict[str, str] = {}
        self.logged: dict[str, set[int]] = {}  # epochs that the store had when the run was found
        self.refused: set[str] = set()

    def __enter__(self) -> "Outbox":
        with ExitStack() as held:
            held.enter_context(locked(f"delivery-{self.path.stem}", self.wait))
            held.enter_context(short_timeouts())
            self.file = held.enter_context(self.path.open("ab+", buffering=0))
            self.file.seek(0)
            content = self.file.read()
            whole = content[: content.rfind(b"\n") + 1]  # a kill leaves half a line
            self.file.truncate(len(whole))
            self.waiting.extend(json.loads(line) for line in whole.splitlines())
            self.late = len(self.waiting)
            self.start()
            self.held = held.pop_all()
        return self

    def __exit__(self, kind, *_) -> None:
        with self.changed:
            self.ending.set()
            self.changed.notify_all()
        before = -1
        while self.is_alive() and len(self.waiting) != before:
            before = len(self.waiting)
            self.join(self.patience if kind is None else min(self.patience, 5.0))
        with self.changed:
            self.stopped = True
            left = list(self.waiting)
            if left:
                with suppress(OSError):  # all of it is in the file, and may be told twice
                    write_bytes(self.path, b"".join(map(_line, left)))
            else:
                self.path.unlink(missing_ok=True)
            self.held.close()
        if left:
            print(
                f"tracking store: {len(left)} entries could not be delivered ({self.problem or 'too slow'}); they are "
                f"kept in {self.path}, and the next stage, or make doctor, delivers them", flush=True,
            )  # fmt: skip

    def put(self, entry: dict[str, Any]) -> None:
        """Have ``entry`` told after all before it; it is in the file when this returns.

        Raises:
            OSError: the file cannot be written; the entry is then not kept.
        """
        line = _line(entry)
        with self.changed:
            size = self.file.seek(0, os.SEEK_END)
            try:
                if self.file.write(line) < len(line):
                    self.file.write(line[-1:])  # says why the whole line did not go in
            except OSError as error:
                self.file.truncate(size)
                raise OSError(error.errno, error.strerror, str(self.path)) from None
            self.waiting.append(entry)
            self.changed.notify_all()

    def run(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.ending.is_set())
                if self.stopped or not self.waiting:
                    return
                entries = _together(self.waiting)
            try:
                self._tell(entries)
            except Exception as error:  # whatever it is, the entries are worth more
                if not isinstance(error, MlflowException) or error.error_code not in REFUSALS:
                    self._say_away(error)
                    if not self.ending.wait(pause):
                        pause = min(2 * pause, LONGEST_PAUSE_S)
                    else:
                        time.sleep(FIRST_PAUSE_S)
                    continue
                self._say_refused(entries[0]["key"], error)
            pause = FIRST_PAUSE_S
            self._told(len(entries))

    def _say_away(self, error: Exception) -> None:
        if not self.problem:
            print(
                f"tracking store: does not answer ({describe_store_error(error)}); work goes on, and updates are kept "
                f"until it does",
                flush=True,
            )
        self.problem = describe_store_error(error)

    def _say_refused(self, key: str, error: Exception) -> None:
        if key not in self.refused:
            print(
                f"tracking store: what concerns the run {key} is refused, and left out: {describe_store_error(error)}",
                flush=True,
            )
        self.refused.add(key)

    def _told(self, count: int) -> None:
        with self.changed:
            if self.stopped:
                return
            for _ in range(count):
                self.waiting.popleft()
            self.late += count if self.problem else 0
            if self.waiting:
                return
            self.file.truncate(0)
            if self.late:
                print(f"tracking store: {self.late} entries that had waited are delivered", flush=True)
            self.late, self.problem = 0, ""

    def _tell(self, entries: list[dict[str, Any]]) -> None:
        """Tell the store of one entry, or of several epochs or samples of one run at once."""
        first, client = entries[0], self.client
        run_id = self._run_id(first)
        match first["do"]:
            case "open":
                pass  # found or made by now
            case "epoch" | "sample":
                known = self.logged.get(first["key"], set()) if first["do"] == "epoch" else set()
                metrics = [
                    Metric(name, value, entry["time"], entry["step"])
                    for entry in entries
                    for name, value in entry["metrics"].items()
                    if entry["step"] not in known
                ]
                client.log_batch(run_id, metrics)
            case "describe":
                params = [Param(name, value) for name, value in first["params"].items()]
                client.log_batch(run_id, params=params, tags=[RunTag(*tag) for tag in first["tags"].items()])
            case "figures":
                log_summary_metrics(client, run_id, first["metrics"], first["time"])
            case "file":
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, first["name"])
                    file.write_bytes(base64.b64decode(first["content"]))
                    client.log_artifact(run_id, str(file), first["folder"])
            case "status" if first["status"] in ("SCHEDULED", "RUNNING"):
                client.update_run(run_id, status=first["status"])
            case "status":
                client.set_terminated(run_id, first["status"], first["time"])

    def _run_id(self, entry: dict[str, Any]) -> str:
        key = entry["key"]
        if key not in self.run_ids and not self.find(entry["experiment"], key):
            if entry["do"] != "open":
                raise MlflowException("it was deleted", RESOURCE_DOES_NOT_EXIST)
            self.make(entry["experiment"], key, entry["name"], entry["parent"], entry["time"])
        return self.run_ids[key]

    def find(self, experiment: str, key: str) -> bool:
        """Whether the store has the run of this key; its id is then known, and which epochs it has."""
        found = self.client.search_runs([experiment], f"tags.{KEY_TAG} = '{key}'", max_results=1)
        if found:
            self.run_ids[key] = found[0].info.run_id
            history = self.client.get_metric_history(self.run_ids[key], "train_loss")
            self.logged[key] = {metric.step for metric in history}
        return bool(found)

    def make(self, experiment: str, key: str, name: str, parent: str | None = None, start: int | None = None) -> None:
        """Make the run of this key, as a child of ``parent`` (a run id), begun at ``start`` (in ms)."""
        tags = {KEY_TAG: key} | ({"mlflow.parentRunId": parent} if parent else {})
        self.run_ids[key] = self.client.create_run(experiment, start, tags, name).info.run_id


class Run:
    """A run that is told of through a delivery; it is known by its key and made where it is missing."""

    def __init__(self, delivery: Outbox, experiment: str, key: str):
        self.delivery, self.experiment, self.key = delivery, experiment, key

    def open(self, name: str, parent: str) -> None:
        """Have the run made, as a child of ``parent`` (a run id)."""
        self._put("open", name=name, parent=parent)

    def describe(self, params: dict[str, Any] | None = None, tags: dict[str, str] | None = None) -> None:
        """Log parameters and tags."""
        texts = {name: str(value) for name, value in (params or {}).items()}
        self._put("describe", params=texts, tags=tags or {})

    def log_epoch(self, entry: dict[str, float]) -> None:
        """Log one epoch's metrics, under the entry's own timestamp (in ms)."""
        metrics = {name: value for name, value in entry.items() if name not in ("epoch", "timestamp")}
        self._put("epoch", metrics=metrics, step=int(entry["epoch"]), time=int(entry["timestamp"]))

    def log_sample(self, metrics: dict[str, float], step: int) -> None:
        """Log what was measured now, such as the machine's load."""
        self._put("sample", metrics=metrics, step=step)

    def log_summary_metrics(self, metrics: dict[str, float]) -> None:
        """As :func:`log_figures`."""
        self._put("figures", metrics=metrics)

    def log_file(self, file: Path, folder: str) -> None:
        """Copy a file, as it is now, into the run's artifacts."""
        self._put("file", name=file.name, folder=folder, content=base64.b64encode(file.read_bytes()).decode())

    def status(self, status: str) -> None:
        """SCHEDULED, RUNNING, FINISHED, FAILED or KILLED, as of now."""
        self._put("status", status=status)

    def _put(self, do: str, **what) -> None:
        entry = {"experiment": self.experiment, "key": self.key, "do": do, "time": int(time.time() * 1000)}
        self.delivery.put(entry | what)


def deliver_pending(client: MlflowClient) -> None:
    """Deliver to this store what earlier processes could not, save where one is still at work."""
    for path in sorted(folder_of(client).glob("*.jsonl")):
        with suppress(ExternalError), Outbox(client, path.stem, patience=10.0, wait=False):
            pass


def folder_of(client: MlflowClient) -> Path:
    """Where is kept what this store is to be told; another store is not told of it."""
    address = redact(client.tracking_uri)
    folder = state_dir("delivery", key_of(address))
    if not (folder / "store").exists():
        write_text(folder / "store", address + "\n")
    return folder


def log_summary_metrics(client: MlflowClient, run_id: str, metrics: dict[str, float], now: int) -> None:
    """Log metrics that a run has once, such as its test accuracy; what was logged before is superseded.

    MLflow takes for the last value the one of the latest time, which after the clock was set back is an older one.
    """
    earlier = client.get_metric_history(run_id, next(iter(metrics)))
    last = max(earlier, key=lambda metric: metric.timestamp, default=None)
    if last is not None and last.value == next(iter(metrics.values())) and last.timestamp >= now:
        return  # told before, and the answer was lost
    now = max([now, *(metric.timestamp + 1 for metric in earlier)])
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])


def describe_store_error(error: Exception) -> str:
    """What an error of the store says, in a line; SQL and pages of HTML are left out."""
    if getattr(error, "error_code", None) == "PERMISSION_DENIED":
        return f"{account()} may not do this; the server's administrator can permit it"
    of_database = getattr(error.__cause__ or error, "orig", None)
    return redact(next(iter(str(of_database or error).strip().splitlines()), type(error).__name__))[:300]


def account() -> str:
    """With which account the server is asked, for a message."""
    name = environment.value("MLFLOW_TRACKING_USERNAME")
    return f"MLFLOW_TRACKING_USERNAME: the account '{name}'" if name else "MLFLOW_TRACKING_USERNAME: no account given"


@contextmanager
def short_timeouts() -> Iterator[None]:
    """MLflow tries a server that does not answer for minutes; within the block it gives up soon, unless told not to."""
    added = {name: value for name, value in QUICK.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _together(waiting: deque[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first entry, or the first ones that fit into one request: an hour's are not an hour's requests."""
    first, *others = islice(waiting, METRICS_IN_A_REQUEST)
    taken, metrics = [first], len(first.get("metrics", ()))
    for entry in others:
        alike = first["do"] in ("epoch", "sample") and (entry["do"], entry["key"]) == (first["do"], first["key"])
        if not alike or (metrics := metrics + len(entry["metrics"])) > METRICS_IN_A_REQUEST:
            break
        taken.append(entry)
    return taken
