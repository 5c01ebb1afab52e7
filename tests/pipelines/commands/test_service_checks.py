"""Checks of real services that answer, refuse the key, do not answer, or have an unexpected content."""

import re
import subprocess

import optuna
import pytest
import sqlalchemy

from pipelines.commands.service_checks import (
    check_checkpoint_storage,
    check_dvc_remote,
    check_optuna_storage,
    check_s3,
)
from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError, UserError

pytestmark = pytest.mark.slow

CLOSED_PORT = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    """A DVC repository, and none of the environment variables set."""
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


@pytest.fixture
def in_s3(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3


def test_an_unset_variable_is_reported_with_its_default(repository):
    assert check_optuna_storage().endswith(str(repository / "state/tuning"))
    assert check_checkpoint_storage().endswith(str(repository / "state/training"))
    assert check_s3() is None
    assert check_dvc_remote().startswith("none; dvc remote add")


def test_s3_and_its_key(in_s3, monkeypatch):
    assert check_s3() == f"{in_s3.address}: 1 bucket(s)"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with pytest.raises(
        ExternalError, match=r"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: .* does not accept them"
    ) as raised:
        check_s3()
    assert "hush" not in str(raised.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{CLOSED_PORT}")
    with pytest.raises(ExternalError, match=r"AWS_ENDPOINT_URL: .* does not answer"):
        check_s3()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ExternalError, match="needs them, and none are found"):
        check_s3()


def test_checkpoints_in_s3(in_s3, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_STORAGE", "s3://bucket/checkpoints")
    assert "written, read back and deleted" in check_checkpoint_storage()
    found = in_s3.client.list_objects_v2(Bucket="bucket", Prefix="checkpoints").get("Contents", [])
    assert not [entry for entry in found if entry["Size"]]
    monkeypatch.setenv("CHECKPOINT_STORAGE", "s3://missing/checkpoints")
    with pytest.raises(ExternalError, match=r"CHECKPOINT_STORAGE: s3://missing/checkpoints: .*create the bucket"):
        check_checkpoint_storage()


def test_checkpoints_in_a_folder(repository, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_STORAGE", str(repository / "shared"))
    assert "written, read back and deleted" in check_checkpoint_storage()
    assert list((repository / "shared").iterdir()) == []
    (repository / "file").touch()
    monkeypatch.setenv("CHECKPOINT_STORAGE", str(repository / "file"))
    with pytest.raises(ExternalError, match=r"CHECKPOINT_STORAGE: .*make it writable"):
        check_checkpoint_storage()


def test_optunas_database(make_database, monkeypatch):
    postgresql = make_database()
    monkeypatch.setenv("OPTUNA_STORAGE", postgresql)
    assert "no studies yet" in check_optuna_storage()
    assert sqlalchemy.inspect(sqlalchemy.create_engine(postgresql)).get_table_names() == []  # nothing was written
    optuna.create_study(storage=postgresql)
    assert check_optuna_storage() == f"{environment.redact(postgresql)}: 1 studies"
    with sqlalchemy.create_engine(postgresql).begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v1.3.0.a'"))
    with pytest.raises(ExternalError, match="optuna storage upgrade"):
        check_optuna_storage()
    monkeypatch.setenv("OPTUNA_STORAGE", re.sub(r"//.*:\d+/", f"//me:hush@{CLOSED_PORT}/", postgresql))
    with pytest.raises(ExternalError, match="OPTUNA_STORAGE: the database does not answer") as raised:
        check_optuna_storage()
    assert "hush" not in str(raised.value)
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql+nodriver://me:hush@host/db")
    with pytest.raises(UserError, match="OPTUNA_STORAGE: not the address") as raised:
        check_optuna_storage()
    assert "hush" not in str(raised.value)


def test_dvcs_remote(repository, in_s3):
    def remote(*arguments: str) -> None:
        subprocess.run(["dvc", "remote", *arguments], cwd=repository, check=True, capture_output=True)

    remote("add", "--default", "team", "s3://bucket/dvc")
    remote("modify", "team", "endpointurl", in_s3.address)
    assert check_dvc_remote() == "team: s3://bucket/dvc"
    remote("modify", "team", "url", "s3://missing/dvc")
    with pytest.raises(ExternalError, match=r"DVC's remote: .*missing"):
        check_dvc_remote()
    remote("modify", "team", "url", "s3://bucket/dvc")
    remote("modify", "--local", "team", "access_key_id", "wrong")
    remote("modify", "--local", "team", "secret_access_key", "hush")
    with pytest.raises(ExternalError, match="DVC's remote: ") as raised:
        check_dvc_remote()
    assert "hush" not in str(raised.value)
    remote("add", "--default", "beside", str(repository / "a/b"))
    with pytest.raises(ExternalError, match=f"there is no {repository}/a/b"):
        check_dvc_remote()
    (repository / "a").mkdir()
    assert check_dvc_remote() == f"beside: {repository}/a/b"
