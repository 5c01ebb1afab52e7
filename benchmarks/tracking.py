"""Claim: tracking an epoch over HTTP takes about twice as long as in sqlite directly, tens of milliseconds more.

An epoch is one request with all its metrics, as training sends it, in turn to a new sqlite database, to
mlflow/server.sh on another one, and to mlflow/server.sh on PostgreSQL, without accounts and with them. The servers are
started here; PostgreSQL is a database, empty or of an earlier time, at the address given. Without one its sides are
left out.

    python -m benchmarks.tracking --postgresql postgresql://user@127.0.0.1/database --repeats 5
"""

import argparse
import contextlib
import os
import secrets
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from benchmarks.measure import report
from pipelines.runtime.errors import ExternalError, run

SERVER = Path(__file__).resolve().parents[1] / "mlflow/server.sh"
EPOCHS = 30
METRICS = (
    "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "images_per_second", "lr",
    "gradient_norm", "theta_rotation", "theta_scale", "theta_shift",
)  # fmt: skip
NAME, PASSWORD = f"benchmark-{secrets.token_hex(4)}", secrets.token_hex(16)  # of an account that stays


@contextlib.contextmanager
def server(store: str, folder: str, accounts: bool) -> Iterator[str]:
    """The address of mlflow/server.sh at work on a store, which writes its output and artifacts to a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"MLFLOW_STORE": store, "MLFLOW_ARTIFACT_ROOT": f"{folder}/artifacts", "MLFLOW_PORT": str(port)}
    if accounts:
        settings |= {"MLFLOW_AUTH": "basic", "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
        settings |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16), "MLFLOW_AUTH_ADMIN_USERNAME": NAME}
    log = Path(folder, f"server-{port}.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [SERVER], env=os.environ | settings, stdout=output, stderr=output, start_new_session=True
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            if process.poll() is not None:
                raise ExternalError(f"mlflow/server.sh ended with {process.returncode}: {log.read_text()[-500:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def milliseconds(client: MlflowClient, experiment: str) -> float:
    """Of an epoch of a new run: the median, and so without the first one's connections."""
    run_id = client.create_run(experiment).info.run_id
    taken = []
    for epoch in range(1, EPOCHS + 1):
        metrics = [Metric(name, epoch / 7, time.time_ns() // 10**6, epoch) for name in METRICS]
        started = time.perf_counter()
        client.log_batch(run_id, metrics=metrics)
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--postgresql", help="address of a database that the benchmark may fill")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        sides = {
            "sqlite": f"sqlite:///{folder}/direct.db",
            "HTTP, sqlite": stack.enter_context(server(f"sqlite:///{folder}/served.db", folder, accounts=False)),
        }
        if arguments.postgresql:
            for name, accounts in (("HTTP, PostgreSQL", False), ("HTTP, PostgreSQL, accounts", True)):
                sides[name] = stack.enter_context(server(arguments.postgresql, folder, accounts))
        os.environ |= {"MLFLOW_TRACKING_USERNAME": NAME, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        clients = {name: MlflowClient(uri) for name, uri in sides.items()}
        experiments = {
            name: client.create_experiment(f"benchmark-{secrets.token_hex(4)}") for name, client in clients.items()
        }
        figures: dict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.repeats):
            for name, client in clients.items():
                figures[f"{name}, ms an epoch"].append(milliseconds(client, experiments[name]))
        for name in list(sides)[1:]:
            pairs = zip(figures[f"{name}, ms an epoch"], figures["sqlite, ms an epoch"], strict=True)
            figures[f"{name} - sqlite, ms an epoch"] = [over - direct for over, direct in pairs]
        report("tracking", dict(figures))


if __name__ == "__main__":
    run(main)
