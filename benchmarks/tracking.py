"""Claim: logging an epoch over HTTP takes about twice as long as in sqlite directly, tens of milliseconds more.

An epoch is one request with all its metrics, as training sends it. The request goes alternately to a new sqlite
database, to mlflow/server.sh on another sqlite database, and to mlflow/server.sh on PostgreSQL, without and with
accounts. The benchmark starts the servers. The PostgreSQL database at the given address is empty or used by an earlier
run. Without an address PostgreSQL is skipped.

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
from pipelines.runtime.errors import ExternalError, run_main

SERVER = Path(__file__).resolve().parents[1] / "mlflow/server.sh"
EPOCHS = 30
METRICS = (
    "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "images_per_second", "lr",
    "gradient_norm", "theta_rotation", "theta_scale", "theta_shift",
)  # fmt: skip
NAME, PASSWORD = f"benchmark-{secrets.token_hex(4)}", secrets.token_hex(16)  # of an account that is not deleted


@contextlib.contextmanager
def serve(store: str, folder: str, accounts: bool) -> Iterator[str]:
    """Run mlflow/server.sh on a store while the block runs; yield its address.

    The server writes its output and artifacts to ``folder``.
    """
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
                raise ExternalError(f"mlflow/server.sh exited with {process.returncode}: {log.read_text()[-500:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(client: MlflowClient, experiment: str) -> float:
    """Return the median milliseconds per epoch of a new run; the median excludes the first connections."""
    run_id = client.create_run(experiment).info.run_id
    milliseconds = []
    for epoch in range(1, EPOCHS + 1):
        metrics = [Metric(name, epoch / 7, time.time_ns() // 10**6, epoch) for name in METRICS]
        started = time.perf_counter()
        client.log_batch(run_id, metrics=metrics)
        milliseconds.append(1000 * (time.perf_counter() - started))
    return statistics.median(milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--postgresql", help="address of a database that the benchmark may write to")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stores = {
            "sqlite": f"sqlite:///{folder}/direct.db",
            "HTTP, sqlite": stack.enter_context(serve(f"sqlite:///{folder}/served.db", folder, accounts=False)),
        }
        if arguments.postgresql:
            for name, accounts in (("HTTP, PostgreSQL", False), ("HTTP, PostgreSQL, accounts", True)):
                stores[name] = stack.enter_context(serve(arguments.postgresql, folder, accounts))
        os.environ |= {"MLFLOW_TRACKING_USERNAME": NAME, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        clients = {name: MlflowClient(uri) for name, uri in stores.items()}
        experiments = {
            name: client.create_experiment(f"benchmark-{secrets.token_hex(4)}") for name, client in clients.items()
        }
        metrics: dict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.repeats):
            for name, client in clients.items():
                metrics[f"{name}, ms/epoch"].append(measure(client, experiments[name]))
        for name in list(stores)[1:]:
            pairs = zip(metrics[f"{name}, ms/epoch"], metrics["sqlite, ms/epoch"], strict=True)
            metrics[f"{name} - sqlite, ms/epoch"] = [served - direct for served, direct in pairs]
        report("tracking", dict(metrics))


if __name__ == "__main__":
    run_main(main)
