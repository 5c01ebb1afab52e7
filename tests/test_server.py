"""The tracking server: mlflow/server.sh reads the environment, and its UI shows what the stages wrote.

Tests of the UI use Debian's chromium (packages chromium and chromium-driver) and are skipped without it.
"""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager

import mlflow
import psutil
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.slow


@contextmanager
def served(project, path: str = ""):
    """Run ``make ui`` in a project; yields its process and its address as soon as it answers, below ``path``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = project.start("make", "-o", ".venv/.ready", "ui", f"PORT={port}")
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(1800):
            try:
                assert urllib.request.urlopen(f"{address}{path}/health", timeout=1).status == 200
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, server.communicate()[0]
                time.sleep(0.1)
        yield server, address
    finally:
        os.killpg(server.pid, signal.SIGKILL)


def test_server_serves_the_store_of_the_environment_on_loopback(project, tmp_path):
    store = f"sqlite:///{tmp_path}/runs.db"
    client = mlflow.MlflowClient(store)
    client.create_registered_model("stn-mine")
    project.env |= {"MLFLOW_STORE": store, "MLFLOW_ARTIFACT_ROOT": str(tmp_path / "artifacts")}
    with served(project) as (server, address):
        found = json.load(urllib.request.urlopen(f"{address}/api/2.0/mlflow/registered-models/search", timeout=60))
        assert [model["name"] for model in found["registered_models"]] == ["stn-mine"]
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}


def test_a_port_in_use_is_refused_in_one_line(project):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for target, setting in (("ui", "MLFLOW_PORT"), ("dashboard", "DASHBOARD_PORT")):
            variable = "PORT" if target == "ui" else setting
            done = project.run("make", "-o", ".venv/.ready", target, f"{variable}={port}", check=False)
            assert done.returncode == 2 and f"error: {setting}: {port} given; another program" in done.stdout


def test_the_ui_shows_the_model_its_champion_and_its_theta(demo, browser):
    """From the list of models to the version, and from the links in its card to the pictures of its run."""
    wait = WebDriverWait(browser, 60)

    def shown(what: Callable) -> object:
        return wait.until(lambda _: what())

    def text() -> str:
        return browser.find_element(By.TAG_NAME, "body").text

    def picture_is_drawn() -> bool:
        drawn = "return [...document.images].some(i => i.complete && i.naturalWidth > 500)"
        return browser.execute_script(drawn) and "Path:" in text()

    version = mlflow.MlflowClient(f"sqlite:///{demo.folder}/state/mlflow.db").get_model_version_by_alias(
        "stn-digits", "champion"
    )

    def follow(link: str) -> None:  # by its address: MLflow's hints for new users cover some links
        shown(lambda: browser.find_elements(By.LINK_TEXT, link))
        browser.get(browser.find_element(By.LINK_TEXT, link).get_attribute("href"))

    with served(demo) as (_, address):
        browser.get(f"{address}/#/models")
        follow("stn-digits")
        shown(lambda: "@ champion" in text() and "Mean accuracy over a range of motions" in text())
        browser.get(f"{address}/#/models/stn-digits/versions/{version.version}")
        shown(lambda: "@ champion" in text() and "Lowest F1 on the test images" in text())
        assert f"{float(version.tags['test_accuracy']):.2%}" in text()
        card = browser.current_url
        for link in ("effect of the transformer", "accuracy under rotation, scale and shift"):
            follow(link)
            shown(picture_is_drawn)
            browser.get(card)
        follow("comparison of all variants")
        shown(lambda: "Mean accuracy over a range of motions of the test images" in text())
