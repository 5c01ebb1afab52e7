"""Messages from the workers of a training to its driver."""

import threading
from collections.abc import Callable

import ray
from ray.exceptions import RayError as RayError

from pipelines.runtime.errors import describe_os_error
from pipelines.runtime.progress import Reporter
from pipelines.tracking.client import TrainingRun
from pipelines.training.cluster import HostWatch


@ray.remote(num_cpus=0)
class Mailbox:
    """Holds what workers say until the driver asks; a worker never waits for the driver's database."""

    def __init__(self) -> None:
        self.messages: list[dict] = []

    def put(self, message: dict) -> None:
        self.messages.append(message)

    def drain(self) -> list[dict]:
        messages, self.messages = self.messages, []
        return messages


class Listener(threading.Thread):
    """Takes the workers' messages to the terminal and to MLflow while the main thread waits for Ray."""

    def __init__(self, mailbox, runs: dict[int, TrainingRun], reporter: Reporter, epochs: int, done, watch: HostWatch):
        super().__init__(daemon=True)
        self.watch, self.workers = watch, 0
        self.mailbox, self.runs, self.reporter, self.epochs, self.done = mailbox, runs, reporter, epochs, done
        self.order = {seed: place for place, seed in enumerate(runs)}
        self.running: TrainingRun | None = None
        self.worked_on: dict[str, str] = {}  # device and precision, once the workers have said
        self.not_finite = ""
        self.accuracy = ""
        self.recording = True
        self.started: float | None = None
        self.last_epoch: float | None = None

    def run(self) -> None:
        finished = False
        while not finished:
            finished = self.done.wait(0.3)  # and then once more, for what came last
            try:
                messages = ray.get(self.mailbox.drain.remote())
                for line in self.watch.news():
                    print(line, flush=True)
            except RayError as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                print(
                    f"messages from the workers are lost: {reason}; their epochs will be logged at the end", flush=True
                )
                return
            for message in messages:
                self.take(message)

    def take(self, message: dict) -> None:
        """Act on one message of a worker."""
        kind, seed = message["kind"], message.get("seed", 0)
        if kind == "start":
            self.started = self.started or message["time"]
            self.worked_on = {key: message[key] for key in ("device", "precision")}
            if self.workers not in (0, message["workers"]):
                print(f"{message['workers']} worker(s) where there were {self.workers}", flush=True)
            self.workers = message["workers"]
            for note in message["notes"]:
                print(note, flush=True)
            print(f"{message['device']}, {message['precision']}: {message['reason']}", flush=True)
            if message["resumed"]:
                print(f"resumed after {message['resumed']} of {self.reporter.total} epochs", flush=True)
        elif kind == "seed":
            self._record(lambda: self._watch(seed))
        elif kind == "step":
            note = f"seed {seed} · {message['rate']:,.0f} images/s{self.accuracy}"
            self.reporter.update(self.order[seed] * self.epochs + message["done"], note)
        elif kind == "epoch":
            entry = message["entry"]
            self.last_epoch = message["time"]
            self.accuracy = f" · validation {entry['validation_accuracy']:.2%}"
            note = f"seed {seed} · {entry['images_per_second']:,.0f} images/s{self.accuracy}"
            self.reporter.update(self.order[seed] * self.epochs + entry["epoch"], note)
            self._record(lambda: self.runs[seed].log_epoch(entry))
        elif kind == "not finite":
            self.not_finite = f"seed {seed}: {message['error']}"

    def _watch(self, seed: int) -> None:
        if self.running is not self.runs[seed]:
            if self.running is not None:
                self.running.end("FINISHED")
            self.running = self.runs[seed]
            self.running.start()

    def _record(self, tell: Callable[[], None]) -> None:
        """Have MLflow told; where a disk is full, all that follows waits for the end, when the checkpoint tells it."""
        try:
            if self.recording:
                tell()
        except OSError as error:  # must not hide why training ends
            print(f"{describe_os_error(error)}; the epochs from here will be logged at the end", flush=True)
            self.recording = False

    def stop_watching(self, status: str) -> None:
        """End the MLflow run of the seed at work, if any."""
        if self.running is not None:
            running, self.running = self.running, None
            self._record(lambda: running.end(status))
