"""The environment: .env.example against the code, precedence, refusals, and secrets that are never printed."""

import getpass
import os
import re
import sys
from pathlib import Path

import pathspec
import pytest

from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError, run_main
from pipelines.tracking.client import connect
from pipelines.training import cluster

ROOT = Path(__file__).resolve().parents[3]
# Read by the code, and not for .env: DVC sets DVC_ROOT, FORCE=1 is meant for one command, OMP_WAIT_POLICY is read by
# OpenMP when torch is imported, LOKY_MAX_CPU_COUNT by joblib, and USER is the system's.
NOT_FOR_DOTENV = {"DVC_ROOT", "FORCE", "OMP_WAIT_POLICY", "LOKY_MAX_CPU_COUNT", "USER", "TMPDIR"}


@pytest.fixture
def dotenv(tmp_path, monkeypatch) -> Path:
    """The path of the home's ``.env``, which does not exist yet; the real environment's variables are not set."""
    for name in environment.VARIABLES:
        monkeypatch.setenv(name, "")  # makes monkeypatch delete what the test sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / ".env"


def refusal(capsys) -> str:
    """The one-line error for an environment with which no work starts."""
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: pytest.fail("work started"))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    return error


def test_the_example_names_every_variable_that_the_code_reads():
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = [match[1] for line in lines if (match := re.fullmatch(r"# ([A-Z_]+)=", line))]
    assert named == list(environment.VARIABLES)
    for name, line in zip(named, [line for line in lines if line], strict=False):
        assert line.startswith("#"), (name, line)  # a plain copy of the file sets nothing
    code = {path: path.read_text() for path in (ROOT / "pipelines").rglob("*.py")}
    read = {name for text in code.values() for name in re.findall(r'environment\.get\("(\w+)"\)', text)}
    assert {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"} < read <= set(named)
    directly = {
        (path.name, name)
        for path, text in code.items()
        for names in re.findall(
            r'environ(?:\.get\(|\.pop\(|\[)"(\w+)"|getenv\("(\w+)"|"(\w+)" (?:not )?in os\.environ', text
        )
        for name in filter(None, names)
    }
    assert {name for _, name in directly} <= NOT_FOR_DOTENV, directly


def test_every_variable_of_the_example_has_its_default_beside_it():
    for paragraph in re.split(r"\n\n|(?<==)\n", (ROOT / ".env.example").read_text())[1:]:
        assert not paragraph.strip() or "Default: " in paragraph, paragraph


def test_a_copy_of_the_example_changes_nothing(dotenv):
    dotenv.write_text((ROOT / ".env.example").read_text())
    before = dict(os.environ)
    assert environment.read() is None and dict(os.environ) == before


def test_what_is_set_outside_wins_and_what_is_empty_is_not_set(dotenv, monkeypatch):
    dotenv.write_text("RAY_ADDRESS=head:6379\nMLFLOW_TRACKING_URI='http://a:1' # ours\nexport OPTUNA_STORAGE=\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b:2")
    assert environment.read() is None
    assert environment.get("RAY_ADDRESS") == "head:6379"
    assert environment.get("MLFLOW_TRACKING_URI") == "http://b:2"
    assert environment.get("OPTUNA_STORAGE") is None
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert environment.read() is None and environment.get("RAY_ADDRESS") is None


def test_a_dollar_sign_in_a_password_is_not_expanded(dotenv):
    dotenv.write_text("MLFLOW_TRACKING_USERNAME=me\nMLFLOW_TRACKING_PASSWORD=a${HOME}b\n")
    assert environment.read() is None and environment.get("MLFLOW_TRACKING_PASSWORD") == "a${HOME}b"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("RAY_ADDRESS", "ray://head:10001"), ("RAY_ADDRESS", "head"),
        ("CHECKPOINT_STORAGE", "some/folder"), ("CHECKPOINT_STORAGE", "ftp://host/folder"),
        ("CHECKPOINT_STORAGE", "s3://"), ("MLFLOW_TRACKING_URI", "ftp://host"),
        ("MLFLOW_TRACKING_URI", "./mlruns"), ("MLFLOW_TRACKING_URI", "host:5000"),
        ("OPTUNA_STORAGE", "nonsense"), ("AWS_ENDPOINT_URL", "minio:9000"), ("AWS_DEFAULT_REGION", "eu central"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_right_is_refused_before_anything_is_done(dotenv, capsys, name, given):
    dotenv.write_text(f"{name}={given}\n")
    error = refusal(capsys)
    assert error.startswith(f"error: {name}: '{given}' given; expected ")


@pytest.mark.parametrize(
    "settings",
    [
        {"RAY_ADDRESS": "auto", "CHECKPOINT_STORAGE": "/mnt/all", "OPTUNA_STORAGE": "mysql+pymysql://a:b@c/d"},
        {"RAY_ADDRESS": "10.0.0.1:6379", "CHECKPOINT_STORAGE": "s3://bucket", "MLFLOW_TRACKING_URI": "sqlite:////a b"},
        {"RAY_ADDRESS": "[::1]:6379", "CHECKPOINT_STORAGE": "s3://bucket/a/b", "MLFLOW_TRACKING_URI": "https://h/p"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_DEFAULT_REGION": "eu-central-1"},
    ],
)  # fmt: skip
def test_valid_values_are_accepted(dotenv, monkeypatch, settings):
    for name, given in settings.items():
        monkeypatch.setenv(name, given)
    assert environment.read() is None


@pytest.mark.parametrize("pair", environment.PAIRS)
@pytest.mark.parametrize("given", [0, 1])
def test_one_of_a_pair_is_refused(dotenv, capsys, pair, given):
    dotenv.write_text(f"{pair[given]}=hush-hush\n")
    error = refusal(capsys)
    assert f"{pair[given]} is set and {pair[1 - given]} is not" in error and "hush-hush" not in error


@pytest.mark.parametrize(
    ("optuna", "mlflow", "same"),
    [
        ("postgresql://a:hush@h/db", "postgresql+psycopg://b:hush@h/db", True),
        ("postgresql://a:hush@h/db", "postgresql://a:hush@h/another", False),
        ("postgresql://a:hush@h/db", "https://h/db", False),
        ("sqlite:////x/a.db", "sqlite:////x/a.db", True),
    ],
)
def test_one_database_for_two_programs_is_refused(dotenv, capsys, optuna, mlflow, same):
    dotenv.write_text(f"OPTUNA_STORAGE={optuna}\nMLFLOW_TRACKING_URI={mlflow}\n")
    if same:
        error = refusal(capsys)
        assert "name the same database" in error and "hush" not in error
    else:
        assert environment.read() is None


@pytest.mark.parametrize("content", [b"RAY_ADDRESS=auto\nthis is hush-hush\n", b"RAY_ADDRESS=\xff hush-hush\n"])
def test_a_file_that_is_not_understood_is_named(dotenv, capsys, content):
    dotenv.write_bytes(content)
    error = refusal(capsys)
    assert str(dotenv) in error and "hush-hush" not in error


def test_secrets_are_not_shown(dotenv, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-key")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-word")
    text = (
        "postgresql://me:hush@h/db and http://me:h@ush@h, postgresql://h/db?user=me&password=hush&sslmode=on, "
        "the key hush-key and the word hush-word"
    )
    expected = (
        "postgresql://me:***@h/db and http://me:***@h, postgresql://h/db?user=me&password=***&sslmode=on, the key"
    )
    assert environment.redact(text) == f"{expected} *** and the word ***"

    def fail():
        raise ExternalError(text)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    with pytest.raises(SystemExit):
        run_main(fail)
    assert "hush" not in capsys.readouterr().err


def test_secrets_travel_neither_with_the_code_nor_into_a_run(project, monkeypatch):
    """Ray ships only the code; the diff that MLflow keeps does not contain ``.env``."""
    secrets = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "hush-key"}
    (project.folder / ".env").write_text("".join(f"{name}={given}\n" for name, given in secrets.items()))
    monkeypatch.chdir(project.folder)
    excluded = pathspec.PathSpec.from_lines("gitwildmatch", cluster.excludes())  # as Ray reads them
    tracked = project.run("git", "ls-files").stdout.splitlines()
    shipped = {name for name in [*tracked, ".env", ".git/config", "data/x"] if not excluded.match_file(name)}
    of_all = ("pipelines/", "stn/", "own_networks/", ".dvcignore")
    of_the_driver = ("pipelines/commands/", "pipelines/evaluation/", "pipelines/visualization/")
    assert shipped == {name for name in tracked if name.startswith(of_all) and not name.startswith(of_the_driver)}
    assert sum(Path(name).stat().st_size for name in shipped) < 1e6
    code = "from pipelines.runtime import environment; from pipelines.tracking.lineage import current_commit; "
    code += "environment.read(); print(current_commit())"
    printed = project.run(sys.executable, "-c", code).stdout
    assert "Commit(" in printed and "hush-key" not in printed
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_the_store_named_in_dotenv_is_the_one_used(dotenv, tmp_path):
    dotenv.write_text(f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/elsewhere.db\n")
    run_main(lambda: connect())
    assert (tmp_path / "elsewhere.db").exists() and not (tmp_path / "state/mlflow.db").exists()


def test_make_gives_dvc_what_dotenv_says(project):
    """DVC takes a remote's credentials from the environment; a variable set outside ``.env`` wins."""
    (project.folder / ".env").write_text("AWS_ACCESS_KEY_ID=of-the-file\nAWS_SECRET_ACCESS_KEY=hush\n")
    tools = project.folder / "tools-of-the-test"
    tools.mkdir()
    (tools / "dvc").write_text('#!/bin/sh\necho "dvc $* by ${AWS_ACCESS_KEY_ID:-nobody}"\n')
    (tools / "dvc").chmod(0o755)
    path = f"PATH={tools}:{project.env['PATH']}"
    outside = {"AWS_ACCESS_KEY_ID": "outside"}
    make = ("make", "-o", ".venv/.ready", path)
    assert project.run(*make, "push").stdout == "dvc push --run-cache by of-the-file\n"
    assert project.run(*make, "pull", env=outside).stdout == "dvc pull --run-cache by outside\n"
    (project.folder / ".env").unlink()
    assert project.run(*make, "push").stdout == "dvc push --run-cache by nobody\n"


def test_a_user_without_an_entry_in_the_list_of_users_has_a_name(monkeypatch, tmp_path):
    """As in a container that runs under any user id."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "_nameless", False)
    assert environment.describe_nameless_user() == ""
    assert environment.read() is None
    assert getpass.getuser() == str(os.getuid())
    assert f"export USER={os.getuid()}" in environment.describe_nameless_user()
    del os.environ["USER"]
