"""The tracking server: mlflow/server.sh takes everything from the environment, and serves what the stages wrote."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request

import mlflow
import psutil
import pytest


@pytest.mark.slow
def test_server_serves_the_store_of_the_environment_on_loopback(project, tmp_path):
    store = f"sqlite:///{tmp_path}/runs.db"
    client = mlflow.MlflowClient(store)
    client.create_registered_model("stn-mine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project.env |= {"MLFLOW_STORE": store, "MLFLOW_ARTIFACT_ROOT": str(tmp_path / "artifacts")}
    server = project.start("make", "-o", ".venv/.ready", "ui", f"PORT={port}")
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                assert urllib.request.urlopen(f"{address}/health", timeout=1).status == 200
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, server.communicate()[0]
                time.sleep(0.1)
        found = json.load(urllib.request.urlopen(f"{address}/api/2.0/mlflow/registered-models/search", timeout=10))
        assert [model["name"] for model in found["registered_models"]] == ["stn-mine"]
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    finally:
        os.killpg(server.pid, signal.SIGKILL)
