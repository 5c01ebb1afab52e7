"""The tracking server behind nginx (Debian's package nginx-light), at the root of a host and on a path."""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pytest
from mlflow.artifacts import load_text
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.servers import free_port
from tests.test_server import served

pytestmark = pytest.mark.slow
# docs/server.md names the last two lines of the location, for a path; at the root, nginx keeps its default Host.
CONFIG = """
{user}
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location {path}/ {{
      proxy_pass http://127.0.0.1:{behind};
      {host}
      client_max_body_size 0;
    }}
  }}
}}
"""


@pytest.fixture
def start_nginx(tmp_path):
    """Starts nginx in front of a port of 127.0.0.1; returns its own port."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no nginx here: Debian's package nginx-light has it")
    processes: list[subprocess.Popen] = []

    def start(port: int, behind: int, path: str) -> None:
        folder = tmp_path / "nginx"
        folder.mkdir()
        user = "user root;" if os.geteuid() == 0 else ""  # its worker reads and writes in this folder
        host = "proxy_set_header Host $http_host;" if path else ""
        (folder / "conf").write_text(
            CONFIG.format(folder=folder, port=port, behind=behind, path=path, host=host, user=user)
        )
        processes.append(subprocess.Popen([str(program), "-c", str(folder / "conf"), "-e", str(folder / "error.log")]))

    yield start
    for process in processes:
        process.terminate()
        process.wait()


def status(url: str, body: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", ["", "/team/mlflow"])
def test_clients_and_the_ui_work_through_a_proxy(project, start_nginx, browser, monkeypatch, path):
    port = free_port()
    name = f"mlflow.localhost:{port}"  # browsers take it for this machine; MLflow allows requests of localhost anyway
    project.env["MLFLOW_PUBLIC_URL"] = f"http://{name}{path}"
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
    with served(project, path) as (_, behind):
        start_nginx(port, int(behind.rpartition(":")[2]), path)
        address = f"http://127.0.0.1:{port}{path}"
        for _ in range(100):
            try:
                assert status(f"{address}/health") == 200
                break
            except urllib.error.URLError:
                time.sleep(0.1)

        create = f"{address}/api/2.0/mlflow/experiments/create"
        own, other = {"Host": name, "Origin": f"http://{name}"}, {"Host": name, "Origin": "http://elsewhere.test"}
        assert status(create, b'{"name": "of a page"}', **own) == 200
        assert status(create, b'{"name": "of another page"}', **other) == 403
        assert status(f"{behind}{path}/", Host="elsewhere.test") == 403
        assert status(f"{behind}{path}/") == 200

        mlflow.set_tracking_uri(address)
        client = mlflow.MlflowClient(address)
        run = client.create_run(client.create_experiment("of a client"), run_name="a-run-through-nginx")
        client.log_text(run.info.run_id, "x" * 3_000_000, "large.txt")  # more than nginx allows by default
        assert len(load_text(f"{run.info.artifact_uri}/large.txt")) == 3_000_000

        # The table of runs comes by POST, with the page's origin.
        browser.get(f"http://{name}{path}/#/experiments/{run.info.experiment_id}?workflowType=machine_learning")
        body = WebDriverWait(browser, 60).until(
            lambda _: (text := browser.find_element(By.TAG_NAME, "body").text) and run.info.run_name in text and text
        )
        assert "Cross-origin" not in body
        browser.get(f"http://{name}{path}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts")
        WebDriverWait(browser, 60).until(lambda _: "large.txt" in browser.find_element(By.TAG_NAME, "body").text)
        if screenshots := os.environ.get("SCREENSHOTS"):
            browser.save_screenshot(str(Path(screenshots) / f"proxy{path.replace('/', '-')}.png"))
