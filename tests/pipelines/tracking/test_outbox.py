"""Outbox: after any faults of the store, it has every update once and in order."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE

from pipelines.tracking import outbox as module
from pipelines.tracking.client import TrainingRun, connect, experiment_id
from pipelines.tracking.outbox import Outbox, Run, deliver_pending
from pipelines.tracking.updates import LogEpoch, Update

EXPERIMENT = "1"


class Store:
    """A fake of MLflow's client: a metric that it has is dropped.

    ``faults`` names what happens to each of the next requests: ``away`` and ``broken`` refuse it, ``lost`` carries it
    out and loses the answer.
    """

    tracking_uri = "http://me:secret@store"

    def __init__(self, faults=()):
        self.faults = list(faults)
        self.runs: dict[str, SimpleNamespace] = {}
        self.files: dict[str, bytes] = {}
        self.batches: list[int] = []  # the number of metrics in each log_batch
        self.requests = 0

    def _request(self, apply=lambda: None):
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else "well"
        if fault == "away":
            raise MlflowException("the store is away", TEMPORARILY_UNAVAILABLE)
        if fault == "broken":
            raise ConnectionError("no route")
        answer = apply()
        if fault == "lost":
            raise MlflowException("the connection was cut")
        return answer

    def search_runs(self, _, text, max_results):
        return self._request(lambda: [run for run in self.runs.values() if f"'{run.tags['training_key']}'" in text])

    def create_run(self, _, start, tags, name):
        def apply():
            run_id = str(len(self.runs))
            info = SimpleNamespace(run_id=run_id)
            self.runs[run_id] = SimpleNamespace(
                info=info, tags=tags, name=name, start=start, metrics=[], params={}, status=[], end=None
            )
            return self.runs[run_id]

        return self._request(apply)

    def get_metric_history(self, run_id, name):
        return self._request(lambda: [metric for metric in self.runs[run_id].metrics if metric.key == name])

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        self.batches.append(len(metrics))

        def apply():
            have = [tuple(dict(metric).values()) for metric in self.runs[run_id].metrics]
            new = [metric for metric in metrics if tuple(dict(metric).values()) not in have]
            self.runs[run_id].metrics += new
            self.runs[run_id].params |= {param.key: param.value for param in params}
            self.runs[run_id].tags |= {tag.key: tag.value for tag in tags}

        self._request(apply)

    def update_run(self, run_id, status):
        self._request(lambda: self.runs[run_id].status.append(status))

    def set_terminated(self, run_id, status, end):
        self.update_run(run_id, status)
        self.runs[run_id].end = end

    def log_artifact(self, run_id, file, folder):
        self.files[f"{run_id}/{folder}/{Path(file).name}"] = Path(file).read_bytes()


def make_outbox(store: Store, name: str = "one", **options) -> Outbox:
    return Outbox(store, name, **options)  # pyright: ignore[reportArgumentType]


def deliver(store: Store) -> None:
    deliver_pending(store)  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    return tmp_path


def kept(home: Path) -> list[Path]:
    """The files of pending updates."""
    return list(home.glob("state/delivery/*/*.jsonl"))


def kill(outbox: Outbox) -> None:
    """Leave the state of a killed process: the file with half a line at its end, and no lock."""
    with outbox.changed:
        outbox.stopped = True
        outbox.ending.set()
        outbox.changed.notify_all()
        outbox.file.file.write(b'{"do": "ep')
        outbox.resources.close()
    outbox.join()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.sampled_from(["well", "away", "broken", "lost"]), max_size=60),
    work=st.lists(st.sampled_from(["a", "b", "sample", "kill"]), max_size=30),
)
def test_after_any_faults_and_kills_the_store_is_complete(home, faults, work):
    store, name = Store(faults), os.urandom(8).hex()
    expected: dict[str, list] = {key: [] for key in ("a", "b")}
    outbox = make_outbox(store, name)
    outbox.__enter__()
    for number, key in enumerate(["a", "b", *work, "b", "a"]):
        if key == "kill":
            kill(outbox)
            outbox = make_outbox(store, name)
            outbox.__enter__()
            continue
        run = Run(outbox, EXPERIMENT, "a" if key == "sample" else key)
        if number < 2:
            run.open(f"the run {key}", "parent")
            run.status("RUNNING")
        elif key == "sample":
            run.log_sample({"system/load": 0.5}, number)
        else:
            expected[key].append((len(expected[key]) + 1, 1000 - number, 1 / (number + 1)))
            step, timestamp, value = expected[key][-1]
            run.log_epoch({"epoch": step, "timestamp": timestamp, "train_loss": value, "validation_accuracy": value})
    for key in expected:
        Run(outbox, EXPERIMENT, key).describe(tags={"state": "finished"})
        Run(outbox, EXPERIMENT, key).status("FINISHED")
    outbox.__exit__(None)

    assert sorted(run.name for run in store.runs.values()) == ["the run a", "the run b"]
    for run in store.runs.values():
        key = run.tags["training_key"]
        for metric in ("train_loss", "validation_accuracy"):
            logged = [(one.step, one.timestamp, one.value) for one in run.metrics if one.key == metric]
            assert logged == expected[key]
        assert run.status[-1] == "FINISHED" and run.tags["state"] == "finished"
        assert run.tags["mlflow.parentRunId"] == "parent"
        samples = [one.step for one in run.metrics if one.key == "system/load"]
        assert len(samples) == len(set(samples)) == (work.count("sample") if key == "a" else 0)
        assert samples == sorted(samples)
    assert kept(home) == []


def test_training_does_not_wait_and_undelivered_updates_are_kept(home, capsys):
    """The outage is reported once; the next command delivers the updates in order with their own timestamps."""
    store = Store(["away"] * 10**6)
    with make_outbox(store, patience=0.2) as outbox:
        run = Run(outbox, EXPERIMENT, "a")
        run.open("a", "parent")
        for epoch in range(1, 4):
            run.log_epoch({"epoch": epoch, "timestamp": 1000 + epoch, "train_loss": 0.5})
        assert store.runs == {}
        while store.requests < 3:
            time.sleep(0.01)
    output = capsys.readouterr().out
    assert output.count("does not answer (the store is away)") == 1
    assert "4 updates could not be delivered" in output and str(kept(home)[0]) in output and "make doctor" in output
    assert "secret" not in (kept(home)[0].parent / "store").read_text()

    store.faults = []
    deliver(store)
    assert "4 pending updates are delivered" in capsys.readouterr().out
    assert [(metric.step, metric.timestamp) for metric in store.runs["0"].metrics] == [(1, 1001), (2, 1002), (3, 1003)]
    assert kept(home) == []


# What Run of pipelines/delivery.py at commit 835a76f wrote.
EARLIER_LINES = b"""\
{"experiment": "1", "key": "a", "do": "open", "time": 100, "name": "trial-3", "parent": "p"}
{"experiment": "1", "key": "a", "do": "describe", "time": 101, "params": {"train.lr": "0.1"}, "tags": {}}
{"experiment": "1", "key": "a", "do": "status", "time": 102, "status": "RUNNING"}
{"experiment": "1", "key": "a", "do": "epoch", "time": 1001, "metrics": {"train_loss": 0.5, "lr": 0.1}, "step": 1}
{"experiment": "1", "key": "a", "do": "epoch", "time": 1002, "metrics": {"train_loss": 0.4, "lr": 0.1}, "step": 2}
{"experiment": "1", "key": "a", "do": "sample", "time": 103, "metrics": {"system/cpu": 7.0}, "step": 0}
{"experiment": "1", "key": "a", "do": "describe", "time": 104, "params": {}, "tags": {"state": "finished"}}
{"experiment": "1", "key": "a", "do": "figures", "time": 105, "metrics": {"final_accuracy_seed": 0.9}}
{"experiment": "1", "key": "a", "do": "file", "time": 106, "name": "c.png", "folder": "study", "content": "zrg="}
{"experiment": "1", "key": "a", "do": "status", "time": 107, "status": "FINISHED"}
{"experiment": "1", "key": "a", "do": "epo"""


def test_updates_that_an_earlier_version_left_are_delivered(home, capsys):
    store = Store()
    with make_outbox(store):
        pass
    (folder,) = home.glob("state/delivery/*")
    (folder / "stn-digits-0123.jsonl").write_bytes(EARLIER_LINES)
    deliver(store)
    assert "10 pending updates are delivered" in capsys.readouterr().out
    (run,) = store.runs.values()
    assert (run.name, run.start, run.end, run.status) == ("trial-3", 100, 107, ["RUNNING", "FINISHED"])
    assert run.tags == {"training_key": "a", "mlflow.parentRunId": "p", "state": "finished"}
    assert run.params == {"train.lr": "0.1"}
    assert [(metric.key, metric.value, metric.timestamp, metric.step) for metric in run.metrics] == [
        ("train_loss", 0.5, 1001, 1), ("lr", 0.1, 1001, 1), ("train_loss", 0.4, 1002, 2), ("lr", 0.1, 1002, 2),
        ("system/cpu", 7.0, 103, 0), ("final_accuracy_seed", 0.9, 105, 0),
    ]  # fmt: skip
    assert store.files == {"0/study/c.png": "θ".encode()}
    assert kept(home) == []


def test_the_lines_have_the_form_that_an_earlier_version_reads():
    """A home may be shared by work trees of different versions."""
    lines = EARLIER_LINES.splitlines(keepends=True)[:-1]
    for line in lines:
        assert json.loads(Update.from_line(line).to_line()) == json.loads(line)


def test_an_hours_updates_take_few_requests():
    """Epochs of one run share a request up to MLflow's limit of metrics; another run or kind begins a new one."""
    store = Store(["away"])
    with make_outbox(store) as outbox:
        run, other = Run(outbox, EXPERIMENT, "a"), Run(outbox, EXPERIMENT, "b")
        with outbox.changed:  # the thread sees all updates at once
            run.open("a", "parent")
            other.open("b", "parent")
            for step in range(1, 251):
                metrics = {f"metric_{number}": 0.5 for number in range(8)}
                outbox.put(Update(EXPERIMENT, "a", step, LogEpoch(metrics, step)))
            other.log_sample({"system/load": 1.0}, 0)
    assert [len(run.metrics) for run in store.runs.values()] == [2000, 1]
    batches = [size for size in store.batches if size]
    assert batches == [1000, 1000, 1]


def test_updates_kept_for_one_store_do_not_go_to_another(home):
    first, second = Store(["away"] * 10**6), Store()
    second.tracking_uri = "http://second"
    with make_outbox(first, patience=0.05) as outbox:
        Run(outbox, EXPERIMENT, "a").open("a", "parent")
    deliver(second)
    assert second.runs == {} and len(kept(home)) == 1


def test_updates_of_a_running_process_are_left_to_it(home):
    store = Store(["away"] * 10**6)
    with make_outbox(store, patience=0.05) as outbox:
        Run(outbox, EXPERIMENT, "a").open("a", "parent")
        deliver(Store())
        assert len(kept(home)) == 1
        store.faults = []
    assert kept(home) == [] and len(store.runs) == 1


def test_refused_updates_are_reported_once_and_block_nothing(capsys):
    store = Store()
    store.log_batch = lambda *_, **__: (_ for _ in ()).throw(MlflowException("deleted", RESOURCE_DOES_NOT_EXIST))
    with make_outbox(store) as outbox:
        run = Run(outbox, EXPERIMENT, "a")
        run.open("a", "parent")
        for epoch in (1, 2):
            run.log_epoch({"epoch": epoch, "timestamp": 1, "train_loss": 0.5})
            run.describe(tags={"b": "c"})
        run.status("FINISHED")
    assert capsys.readouterr().out.count("updates of the run a are refused and dropped: deleted") == 1
    assert store.runs["0"].status == ["FINISHED"]


def test_a_full_disk_keeps_no_half_entries(home, files_of_at_most):
    store = Store(["away"] * 10**6)
    with make_outbox(store, patience=0.05) as outbox:
        run = Run(outbox, EXPERIMENT, "a")
        run.open("a", "parent")
        with files_of_at_most(kept(home)[0].stat().st_size + 30), pytest.raises(OSError, match=r"one\.jsonl"):
            run.describe(tags={"too": "long"})
        run.status("FINISHED")
    lines = kept(home)[0].read_bytes().splitlines()
    assert [json.loads(line)["do"] for line in lines] == ["open", "status"]


class Proxy(ThreadingHTTPServer):
    """A proxy of a real server. ``fault`` is what happens to requests: none, slow, 5xx or lost answer."""

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.server_port_behind, self.fault = port, "none"
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class ProxyHandler(BaseHTTPRequestHandler):
    """One connection to the proxy."""

    server: Proxy  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        fault = self.server.fault
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{fault} {self.path.rpartition('/')[2]}")
        if fault == "5xx":
            self.send_error(503)
            return
        if fault == "slow":
            time.sleep(1)
        behind = HTTPConnection("127.0.0.1", self.server.server_port_behind, timeout=60)
        try:
            behind.request(self.command, self.path, body, dict(self.headers))
            answer = behind.getresponse()
            content = answer.read()
        except OSError:
            self.send_error(502)
            return
        finally:
            behind.close()
        if fault == "lost answer":  # the request was carried out
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = _forward

    def log_message(self, format, *args):
        pass


class Server:
    """MLflow's server on its own database; it can be killed and started again at the same port."""

    def __init__(self, folder: Path):
        self.folder, self.process = folder, None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            command, env=environment, cwd=self.folder, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while True:
            with suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).status == 200:
                    return
            assert self.process.poll() is None
            time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield proxy
    proxy.shutdown()
    proxy.server_close()


SEEDS, EPOCHS, METRICS = 2, 45, 6


@contextmanager
def training(address: str, name: str, monkeypatch):
    """The driver's side of a training without images: ``train(seed, n)`` logs n more epochs of a training seed."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = connect()
    experiment = experiment_id(client, name)
    with Outbox(client, name) as outbox:
        runs = [TrainingRun(outbox, experiment, f"{name}-{seed}", f"seed-{seed}") for seed in range(SEEDS)]

        def train(seed: int, epochs: int) -> None:
            runs[seed].start()
            waited = 0.0
            for _ in range(epochs):
                epoch = len(runs[seed].logged) + 1
                metrics = {f"metric_{number}": epoch + number / 10 for number in range(METRICS - 1)}
                started = time.monotonic()
                runs[seed].log_epoch({"epoch": epoch, "timestamp": 10**12 + epoch, "train_loss": 1 / epoch} | metrics)
                waited += time.monotonic() - started
                time.sleep(0.02)
            assert waited < 3 + epochs / 3, "training waited for the store"

        yield train, runs, client
        for run in runs:
            run.end("FINISHED")


def delivered(runs: list, client: MlflowClient) -> int:
    """Number of metrics in the store; asserts that each epoch is there once and in order."""
    count = 0
    for run in runs:
        assert client.get_run(run.run_id).info.status == "FINISHED"
        for name in ("train_loss", *(f"metric_{number}" for number in range(METRICS - 1))):
            steps = [metric.step for metric in client.get_metric_history(run.run_id, name)]
            assert steps == list(range(1, EPOCHS + 1)), (name, steps)
            count += len(steps)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["slow", "5xx", "lost answer"])
def test_faults_of_a_server_lose_no_metric_and_double_none(proxy, monkeypatch, fault, home):
    with training(proxy.address, fault.replace(" ", "-"), monkeypatch) as (train, runs, client):
        for seed in range(SEEDS):
            for during in ("none", fault, "none"):
                proxy.fault = during
                train(seed, EPOCHS // 3)
                while during != "none" and not any(one.startswith(during) for one in proxy.requests):
                    time.sleep(0.01)
        proxy.fault = "none"
    assert f"{fault} log-batch" in proxy.requests
    assert delivered(runs, client) == SEEDS * EPOCHS * METRICS
    assert kept(home) == []


@pytest.mark.slow
def test_a_server_restarted_three_times_has_every_metric_once(server, monkeypatch, home, capsys):
    """The server is killed in the middle of a run, stays away for some epochs, and starts again."""
    with training(f"http://127.0.0.1:{server.port}", "restarts", monkeypatch) as (train, runs, client):
        for part in range(3):
            train(part % SEEDS, 10)
            server.kill()
            train(part % SEEDS, 5)
            train((part + 1) % SEEDS, 5)
            server.start()
        for seed in range(SEEDS):
            train(seed, EPOCHS - len(runs[seed].logged))
    output = capsys.readouterr().out
    count = delivered(runs, client)
    print(f"delivered {count} of {SEEDS * EPOCHS * METRICS} metrics through three restarts")
    assert count == SEEDS * EPOCHS * METRICS
    assert 1 <= output.count("does not answer") == output.count("pending updates are delivered") <= 3, output
    assert kept(home) == []


# Runs a stage that waits 10 s, not a minute, at its end. MLflow takes about 5 s to give up on a lost server.
IMPATIENT = """
import runpy, sys
from pipelines.tracking.outbox import Outbox
Outbox.__init__.__kwdefaults__["patience"] = 4.0
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_store_that_never_comes_back_costs_no_result_and_the_next_start_delivers_all(project, server):
    """train and tune start with a server and end without one; a command without Ray then delivers everything."""
    project.set(
        "data.dataset=digits", "train.epochs=12", "train.threads=1", "tune.epochs=2", "tune.trials=3",
        "tune.finalists=1", "tune.max_parameters=none",
    )  # fmt: skip
    project.stage("prepare")
    (project.folder / "pipelines/impatient.py").write_text(IMPATIENT)
    address = f"http://127.0.0.1:{server.port}"
    project.env |= {"MLFLOW_TRACKING_URI": address}
    client = MlflowClient(address)

    def without_its_server(*stage: str) -> None:
        driver = project.start("python", "-m", "pipelines.impatient", *stage, warm=True)
        while not any(run.info.status == "RUNNING" and run.data.metrics for run in runs_of_stn(client)):
            assert driver.poll() is None, driver.communicate()[0]
            time.sleep(0.1)
        server.kill()
        output = driver.communicate()[0]
        assert driver.returncode == 0, output
        assert output.count("does not answer") == 1 and "could not be delivered" in output, output
        assert len(list(project.folder.glob("state/delivery/*/*.jsonl"))) == 1
        server.start()

    without_its_server("pipelines.train", "--variant", "stn")
    record = json.loads((project.folder / "models/stn/training.json").read_text())
    said = project.stage("train", "--variant", "stn").stdout
    assert "is copied" in said and "pending updates are delivered" in said and "epochs on" not in said
    (trained,) = runs_of_stn(client)
    assert trained.info.run_id == record["runs"]["0"]["run_id"] and trained.info.status == "FINISHED"
    history = client.get_metric_history(trained.info.run_id, "validation_accuracy")
    logged = [
        (entry["epoch"], entry["timestamp"], entry["validation_accuracy"]) for entry in record["runs"]["0"]["history"]
    ]
    assert [(metric.step, metric.timestamp, metric.value) for metric in history] == logged and len(logged) == 12
    assert trained.data.tags["device"] == "cpu"

    project.set("train.epochs=4")  # of the finalists
    without_its_server("pipelines.tune")
    assert "pending updates are delivered" in project.command("doctor", check=False).stdout
    found = {run.info.run_name: run for run in runs_of_stn(client)}
    parent = found["tune-digits"]
    trials, finals = ([run for name, run in found.items() if name.startswith(kind)] for kind in ("trial-", "final-"))
    assert len(found) == 1 + 1 + len(trials) + len(finals) == len(runs_of_stn(client)) and len(trials) == 3
    for run in [*trials, *finals]:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id and run.data.params
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "validation_accuracy")]
        assert run.info.status == "FINISHED" and steps == list(range(1, len(steps) + 1))
        assert len(steps) == 4 or run in trials
        assert len(steps) == 2 or run in finals or run.data.tags["state"] == "pruned"
    assert parent.info.status == "FINISHED" and "final_accuracy_stn" in parent.data.metrics
    assert [file.path for file in client.list_artifacts(parent.info.run_id, "study")]


def runs_of_stn(client: MlflowClient) -> list:
    """Runs of the experiment stn-digits."""
    experiment = client.get_experiment_by_name("stn-digits")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []
