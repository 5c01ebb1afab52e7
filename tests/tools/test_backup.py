"""Backup and restore of the tracking server's store: registered models load afterwards, also from another place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import mlflow
import pytest
from mlflow.artifacts import load_text

from pipelines.runtime.errors import ExternalError, UserError
from tests.servers import ADMIN, ROOT, team_server
from tools import backup

MODEL = """
import mlflow
from mlflow.models import set_model
class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input * 2
set_model(Twice())
"""
LOADS = "import mlflow, numpy; print(mlflow.pyfunc.load_model('models:/mine@champion').predict(numpy.array([21]))[0])"


def fill(client: mlflow.MlflowClient, folder: Path, location: str | None = None) -> None:
    """Create a run with a metric and a file with an unusual name, and a registered model with a champion."""
    experiment = client.create_experiment("mine", location)
    run_id = client.create_run(experiment).info.run_id
    client.log_metric(run_id, "accuracy", 0.5, step=1)
    client.log_text(run_id, "θ", "pictures/what it's like.txt")
    (folder / "twice.py").write_text(MODEL)
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(name="twice", python_model=str(folder / "twice.py"), pip_requirements=[])
    mlflow.register_model(logged.model_uri, "mine")  # pyright: ignore[reportPossiblyUnboundVariable]
    client.set_registered_model_alias("mine", "champion", "1")


def contents(client: mlflow.MlflowClient) -> list:
    """Read what :func:`fill` wrote."""
    version = client.get_model_version_by_alias("mine", "champion")
    run = client.get_run(str(version.run_id))
    text = load_text(f"{run.info.artifact_uri}/pictures/what it's like.txt")
    return [version.version, run.info.run_id, run.data.metrics, text]


def run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    """Run a command in the repository; of the servers' variables, the environment has those of ``env`` alone."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "PG"))}
    own["PATH"] = f"{Path(sys.executable).parent}:{own['PATH']}"
    return subprocess.run(command, cwd=ROOT, env=own | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def make(target: str, env: dict[str, str]) -> str:
    done = run(["make", "-o", ".venv/.ready", *target.split()], env)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a store that was used without a server; the environment names its database and artifacts."""
    folder = tmp_path_factory.mktemp("store") / "here"
    folder.mkdir()
    store, artifacts = f"sqlite:///{folder}/runs.db", folder / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_STORE", store)
        patch.setenv("MLFLOW_ARTIFACT_ROOT", str(artifacts))
        mlflow.set_tracking_uri(store)
        fill(mlflow.MlflowClient(), folder, (artifacts / "mine").as_uri())
        yield folder
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_a_store_without_a_server_is_restored_elsewhere(small, tmp_path):
    """The database has absolute places of artifacts, which are changed."""
    before = contents(mlflow.MlflowClient())
    make(f"backup TO={tmp_path}/kept", dict(os.environ))
    small.rename(tmp_path / "gone")
    store = f"sqlite:///{tmp_path}/there/runs.db"
    try:
        make(
            f"restore FROM={tmp_path}/kept", {"MLFLOW_STORE": store, "MLFLOW_ARTIFACT_ROOT": f"{tmp_path}/there/files"}
        )
        assert contents(mlflow.MlflowClient(store)) == before
        loaded = run([sys.executable, "-c", LOADS], {"MLFLOW_TRACKING_URI": store})
        assert loaded.stdout.splitlines()[-1] == "42"
        assert not small.exists()
    finally:
        (tmp_path / "gone").rename(small)


def test_a_nonempty_store_is_replaced_only_with_overwrite(small, tmp_path, monkeypatch):
    backup.back_up(tmp_path / "kept")
    mlflow.MlflowClient().delete_registered_model_alias("mine", "champion")
    with pytest.raises(UserError, match=r"MLFLOW_STORE.*OVERWRITE=1"):
        backup.restore(tmp_path / "kept", overwrite=False)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_STORE", f"sqlite:///{tmp_path}/other.db")
        with pytest.raises(UserError, match=r"MLFLOW_ARTIFACT_ROOT.*OVERWRITE=1"):
            backup.restore(tmp_path / "kept", overwrite=False)
    backup.restore(tmp_path / "kept", overwrite=True)
    assert contents(mlflow.MlflowClient())[0] == 1


@pytest.mark.parametrize("damage", ["altered", "missing", "added", "manifest"])
def test_a_damaged_backup_is_reported_before_anything_is_touched(damage, small, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    backup.back_up(kept)
    file = next((kept / "artifacts").rglob("twice.py"))
    match damage:
        case "altered":
            file.write_text(MODEL + "#")
        case "missing":
            file.unlink()
        case "added":
            file = file.with_name("new.py")
            file.write_text(MODEL)
        case "manifest":
            file = kept / "manifest.json"
            file.write_text(file.read_text()[:100])
    monkeypatch.setenv("MLFLOW_STORE", f"sqlite:///{tmp_path}/there/runs.db")
    monkeypatch.setenv("MLFLOW_ARTIFACT_ROOT", f"{tmp_path}/there/files")
    with pytest.raises(ExternalError, match=file.name):
        backup.restore(kept, overwrite=True)
    assert not (tmp_path / "there").exists()


def test_an_incomplete_backup_never_has_its_final_name(small, tmp_path, files_of_at_most):
    kept = tmp_path / "kept"
    with files_of_at_most(1000), pytest.raises((OSError, ExternalError)):
        backup.back_up(kept)
    assert not kept.exists() and kept.with_name("kept.partial").exists()
    backup.back_up(kept)
    assert not kept.with_name("kept.partial").exists()
    with pytest.raises(UserError, match=str(kept)):
        backup.back_up(kept)


@pytest.mark.parametrize(
    ("store", "error", "named"),
    [
        ("nonsense", UserError, "MLFLOW_STORE"),
        ("mysql://u:secret@host/db", UserError, "MLFLOW_STORE"),
        ("sqlite:////nonexistent/runs.db", UserError, "/nonexistent/runs.db"),
        ("postgresql://u:secret@127.0.0.1:1/db", ExternalError, "127.0.0.1"),
    ],
)
def test_a_store_that_cannot_be_read_is_reported_in_one_line(store, error, named, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_STORE", store)
    monkeypatch.setenv("MLFLOW_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    with pytest.raises(error, match=named) as raised:
        backup.back_up(tmp_path / "kept")
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_a_teams_store_is_destroyed_and_restored(tmp_path, copy_of_project, make_database, s3, monkeypatch):
    """PostgreSQL and S3 behind the server: another database is used, and the bucket is emptied."""
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    artifacts = "s3://bucket/restored"
    with team_server(copy_of_project.folder, make_database(), artifacts, s3.env) as server:
        mlflow.set_tracking_uri(server.address)
        fill(mlflow.MlflowClient(), tmp_path)
        server.account("kim", "kim's own password")
        before = contents(mlflow.MlflowClient())
        make(f"backup TO={tmp_path}/kept", server.env)
    manifest = json.loads((tmp_path / "kept/manifest.json").read_text())
    assert manifest["database"] == "postgresql" and manifest["artifact_root"] == artifacts
    secrets = [server.env[name] for name in ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY")]
    assert not any(secret in (tmp_path / "kept/manifest.json").read_text() for secret in secrets)

    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3").Bucket("bucket")  # pyright: ignore[reportAttributeAccessIssue]
    bucket.objects.filter(Prefix="restored/").delete()
    assert not list(bucket.objects.filter(Prefix="restored/"))
    store = make_database()
    make(f"restore FROM={tmp_path}/kept", server.env | {"MLFLOW_STORE": store})
    with team_server(copy_of_project.folder, store, artifacts, s3.env) as server:
        mlflow.set_tracking_uri(server.address)
        assert contents(mlflow.MlflowClient()) == before
        account = {"MLFLOW_TRACKING_USERNAME": "kim", "MLFLOW_TRACKING_PASSWORD": "kim's own password"}
        loaded = run([sys.executable, "-c", LOADS], account | {"MLFLOW_TRACKING_URI": server.address})
        assert loaded.stdout.splitlines()[-1] == "42"
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
