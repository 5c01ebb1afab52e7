"""The tracking server of a team, as in mlflow/compose.yaml without containers: accounts, PostgreSQL and S3.

Clients know the server's address and their account only.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest
import requests
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from pipelines.runtime.errors import ExternalError, UserError
from pipelines.tracking.client import connect
from tests.conftest import ROOT, Project
from tests.servers import ADMIN, SECRETS, Server, team_server
from tools.account import main

KIM = {"MLFLOW_TRACKING_USERNAME": "kim", "MLFLOW_TRACKING_PASSWORD": "kim's own password"}
LEE = {"MLFLOW_TRACKING_USERNAME": "lee", "MLFLOW_TRACKING_PASSWORD": "lee's own password"}
# docs/server.md tells other programs than this project's to set this.
NO_REDIRECTS = {"MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false"}
LOADS = (
    "import sys, mlflow, numpy as np; model = mlflow.pyfunc.load_model('models:/stn-digits@champion'); "
    "print(model.predict(np.zeros((2, 1, 28, 28), dtype=np.uint8))['class'].shape)"
)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"MLFLOW_HOST": "0.0.0.0"}, "MLFLOW_HOST: '0.0.0.0'"),
        ({"MLFLOW_AUTH": "yes"}, "MLFLOW_AUTH: 'yes'"),
        ({"MLFLOW_PUBLIC_URL": "mlflow.example.com"}, "MLFLOW_PUBLIC_URL: 'mlflow.example.com'"),
        ({"MLFLOW_PUBLIC_URL": "https://a/b c"}, "MLFLOW_PUBLIC_URL: 'https://a/b c'"),
        ({"MLFLOW_AUTH": "basic"}, "MLFLOW_AUTH_ADMIN_PASSWORD: 0 characters"),
        ({"MLFLOW_AUTH": "basic", **SECRETS, "MLFLOW_AUTH_ADMIN_PASSWORD": "short"}, "MLFLOW_AUTH_ADMIN_PASSWORD: 5"),
        ({"MLFLOW_AUTH": "basic", **SECRETS, "MLFLOW_FLASK_SERVER_SECRET_KEY": ""}, "MLFLOW_FLASK_SERVER_SECRET_KEY"),
        ({"MLFLOW_AUTH": "basic", **SECRETS, "MLFLOW_DEFAULT_PERMISSION": "ALL"}, "MLFLOW_DEFAULT_PERMISSION: 'ALL'"),
    ],
)
def test_the_server_refuses_to_start_without_what_makes_it_safe(settings, named):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run([ROOT / "mlflow/server.sh"], env=inherited | settings, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {named}") and done.stderr.count("\n") == 1
    assert "short" not in done.stderr


@pytest.fixture(scope="module")
def server(copy_of_project, make_database, s3) -> Iterator[Server]:
    """A server with two accounts: kim may edit everything, lee may read everything."""
    with team_server(copy_of_project.folder, make_database(), "s3://bucket/artifacts", s3.env) as started:
        started.account("kim", KIM["MLFLOW_TRACKING_PASSWORD"], "--permission", "EDIT")
        started.account("lee", LEE["MLFLOW_TRACKING_PASSWORD"])
        yield started


@pytest.fixture(scope="module")
def kims(server, copy_of_project) -> Project:
    """Kim's project after `make tune` and `dvc repro` on the digits."""
    project = Project(copy_of_project.folder)
    project.env |= KIM | {"MLFLOW_TRACKING_URI": server.address}
    project.set(
        "data.dataset=digits", "variants=[stn,tuned]", "prepare.validation=0.2", "train.epochs=2",
        "tune.epochs=1", "tune.finalists=1", "evaluate.resamples=200", "evaluate.robustness_images=100",
    )  # fmt: skip
    project.run("make", "-o", ".venv/.ready", "tune", "TRIALS=2")
    project.run("dvc", "repro")
    return project


@pytest.fixture
def client(server, monkeypatch) -> mlflow.MlflowClient:
    """Kim's client, in this process."""
    for name, value in KIM.items():
        monkeypatch.setenv(name, value)
    return mlflow.MlflowClient(server.address)


@pytest.mark.slow
def test_no_secret_is_in_the_list_of_processes_and_the_configuration_is_private(server, copy_of_project):
    processes = [server.process.pid, *(child.pid for child in psutil.Process(server.process.pid).children(True))]
    arguments = " ".join(argument for pid in processes for argument in psutil.Process(pid).cmdline())
    assert "mlflow.server.auth" in arguments
    for name in ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", *SECRETS):
        assert server.env[name] not in arguments
    (configuration,) = copy_of_project.folder.glob("state/server/*.ini")
    assert configuration.stat().st_mode & 0o077 == 0
    assert "state/" not in copy_of_project.run("git", "status", "--porcelain").stdout


@pytest.mark.slow
def test_files_come_through_the_server_alone(server, client, copy_of_project, tmp_path):
    """MLflow's server offers clients signed addresses of S3, which clients outside compose cannot reach."""
    run_id = client.create_run(client.create_experiment("files")).info.run_id
    client.log_text(run_id, "θ", "theta.txt")
    assert Path(client.download_artifacts(run_id, "theta.txt", str(tmp_path))).read_text() == "θ"
    log = (copy_of_project.folder / "server.log").read_text()
    assert f"{run_id}/artifacts/theta.txt" in log and "presigned" not in log


@pytest.mark.slow
def test_the_pipeline_tracks_over_http_alone(kims, client, server):
    """Runs are in PostgreSQL and files in S3; the client has no access to S3."""
    assert not [name for name in kims.env if name.startswith("AWS_")]
    assert not (kims.folder / "state/mlflow.db").exists() and not list((kims.folder / "state/artifacts").iterdir())
    versions = client.search_model_versions("name = 'stn-digits'")
    assert sorted(version.tags["variant"] for version in versions) == ["stn", "tuned"]
    for version in versions:
        run = client.get_run(str(version.run_id))
        assert run.info.status == "FINISHED" and run.info.artifact_uri.startswith("mlflow-artifacts:")
        assert [entry.step for entry in client.get_metric_history(run.info.run_id, "train_loss")] == [1, 2]


@pytest.mark.slow
def test_promotion_rollback_and_loading_the_champion(kims, client):
    champion = client.get_model_version_by_alias("stn-digits", "champion").version
    other = next(v.version for v in client.search_model_versions("name = 'stn-digits'") if v.version != champion)
    make = ("make", "-o", ".venv/.ready")
    kims.run(*make, "promote", "MODEL=stn-digits", f"VERSION={other}", "FORCE=to see it")
    assert client.get_model_version_by_alias("stn-digits", "champion").version == other
    kims.run(*make, "rollback", "MODEL=stn-digits")
    assert client.get_model_version_by_alias("stn-digits", "champion").version == champion
    loaded = kims.run(sys.executable, "-c", LOADS, env=NO_REDIRECTS).stdout
    assert "(2,)" in loaded
    assert "presigned" not in (kims.folder / "server.log").read_text()


@pytest.mark.slow
def test_an_account_that_may_only_read_is_refused_in_one_line(kims, client):
    champion = client.get_model_version_by_alias("stn-digits", "champion").version
    other = next(v.version for v in client.search_model_versions("name = 'stn-digits'") if v.version != champion)
    done = kims.command("promote", "stn-digits", "--version", str(other), "--force", "I may not", env=LEE, check=False)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert last.startswith("error: ") and "MLFLOW_TRACKING_USERNAME: the account 'lee' may not do this" in last
    assert client.get_model_version_by_alias("stn-digits", "champion").version == champion
    assert "(2,)" in kims.run(sys.executable, "-c", LOADS, env=LEE | NO_REDIRECTS).stdout


@pytest.mark.slow
@pytest.mark.parametrize("account", [KIM | {"MLFLOW_TRACKING_PASSWORD": "another"}, dict.fromkeys(KIM, "")])
def test_an_unknown_account_is_refused_in_one_line(account, server, monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name, value in (account | {"MLFLOW_TRACKING_URI": server.address}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_USERNAME: .*MLFLOW_TRACKING_PASSWORD") as raised:
        connect()
    assert "another" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_password_is_changed_and_an_account_deleted(server, monkeypatch, capsys):
    def account(*arguments: str, password: str = "") -> str:
        monkeypatch.setattr(sys, "argv", ["account", "max", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(password + "\n"))
        main()
        return capsys.readouterr().out

    def may(password: str) -> bool:
        answer = requests.get(f"{server.address}/version", auth=("max", password), timeout=120)
        assert answer.status_code in (200, 401)
        return answer.ok

    for name, value in (ADMIN | {"MLFLOW_TRACKING_URI": server.address}).items():
        monkeypatch.setenv(name, value)
    assert "created" in account(password="the first password")
    assert may("the first password")
    assert "changed" in account(password="the second password")
    assert may("the second password") and not may("the first password")
    assert "EDIT" in account("--permission", "EDIT", password="not read")
    assert may("the second password")
    account("--delete")
    assert not may("the second password")
    with pytest.raises(ExternalError, match="12 characters"):
        account(password="short")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI: 'sqlite"):
        account()


@pytest.mark.slow
def test_the_ui_asks_for_the_account_and_shows_a_picture_from_s3(kims, client, server, browser):
    version = client.get_model_version_by_alias("stn-digits", "challenger")
    wait = WebDriverWait(browser, 60)

    def text() -> str:
        return browser.find_element(By.TAG_NAME, "body").text

    assert requests.get(server.address, timeout=120).status_code == 401
    browser.get(server.address.replace("//", f"//lee:{LEE['MLFLOW_TRACKING_PASSWORD'].replace(' ', '%20')}@"))
    browser.get(f"{server.address}/#/models/stn-digits/versions/{version.version}")
    wait.until(lambda _: "@ champion" in text() or "@ challenger" in text())
    picture = "comparison of all variants"
    wait.until(lambda _: browser.find_elements(By.LINK_TEXT, picture))
    browser.get(browser.find_element(By.LINK_TEXT, picture).get_attribute("href"))
    wait.until(lambda _: "Mean accuracy over a range of motions of the test images" in text())
