"""Hosts on one machine: network namespaces joined by a bridge, so that what only several machines show can be tried.

Each host has an address, an interface and a loopback of its own, and can be cut off: its packets then vanish, as those
of a machine whose cable is pulled, and nobody is told. They share processors, memory and, but for the folders hidden
from them, the file system. It takes Linux, iproute2 and the rights of root.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# In the namespace of mounts that `ip netns exec` makes for each command; what is hidden looks like an empty folder.
HIDE = 'while [ "$1" != -- ]; do mount -t tmpfs tmpfs "$1"; shift; done; shift; exec "$@"'


# As docs/cluster.md has it, with more patience: a host whose packets vanish is given up after some 20 seconds, and one
# that is slow because all of them share two busy processors is not.
IMPATIENT = '{"health_check_period_ms": 1000, "health_check_timeout_ms": 4000, "health_check_failure_threshold": 4}'


class Host:
    """One of them, reached by ``address``; folders in ``hidden`` are empty to whatever runs on it."""

    def __init__(self, network: str, number: int, address: str):
        self.name, self.address = f"{network}-{number}", address
        self.link = f"{network}v{number}"  # the bridge's end of its cable
        self.hidden: list[Path] = []

    def command(self, *command: str) -> list[str]:
        """What runs ``command`` on this host, for :mod:`subprocess`."""
        hidden = [str(folder) for folder in self.hidden]
        return ["ip", "netns", "exec", self.name, "sh", "-c", HIDE, "sh", *hidden, "--", *command]

    def cut_off(self) -> None:
        """Let its packets vanish; what runs on it runs on."""
        ip("link", "set", self.link, "down")

    def reconnect(self) -> None:
        """Undo :meth:`cut_off`."""
        ip("link", "set", self.link, "up")

    def bytes_sent(self) -> int:
        """Bytes that have left it for other hosts so far."""
        return int(Path(f"/sys/class/net/{self.link}/statistics/rx_bytes").read_text())

    def kill_all(self) -> None:
        """End all processes on it, at once."""
        for pid in ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


class Cluster:
    """Ray on such hosts, with a token of its own: a head without CPUs for workers, where commands are run, and others.

    Args:
        cpus: how many each of ``workers`` lends.
        env: the environment that all is started in; RAY_ADDRESS is added for what is run on the head.
        folder: for Ray's files, with a short name: its sockets lie there.

    Raises:
        RuntimeError: Ray does not start on one of them.
    """

    def __init__(self, head: Host, workers: list[Host], cpus: int, env: dict[str, str], folder: Path):
        self.head, self.workers, self.cpus = head, workers, cpus
        self.env = env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._start(
            head, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false",
            f"--temp-dir={folder}", f"--system-config={IMPATIENT}",
        )  # fmt: skip
        for worker in workers:
            self.join(worker)
        self.env["RAY_ADDRESS"] = f"{head.address}:6379"

    def join(self, worker: Host) -> None:
        """Have a host join it."""
        self._start(worker, f"--address={self.head.address}:6379", f"--num-cpus={self.cpus}")

    def _start(self, host: Host, *arguments: str) -> None:
        ray = str(Path(sys.executable).with_name("ray"))  # of this environment, whether it is activated or not
        command = host.command(ray, "start", "--node-ip-address", host.address, *arguments)
        done = subprocess.run(
            command, env=self.env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise RuntimeError(f"ray start on {host.name}: {done.stdout}")

    def drive(self, folder: Path, *arguments: str) -> subprocess.Popen:
        """Start Python on the head, in a folder; its standard output and error are one pipe."""
        return subprocess.Popen(
            self.head.command(sys.executable, *arguments), env=self.env, cwd=folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def why_not() -> str:
    """Why no hosts can be made here; empty where they can."""
    if shutil.which("ip") is None:
        return "no network namespaces here: Debian's package iproute2 is missing"
    name = f"stn{secrets.token_hex(2)}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()}"
    ip("netns", "delete", name)
    return ""


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts on one bridge; after the block they, and all that runs on them, are gone."""
    network = f"stn{secrets.token_hex(2)}"
    subnet = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(256)}"
    made = [Host(network, number, f"{subnet}.{number + 1}") for number in range(count)]
    try:
        ip("link", "add", network, "type", "bridge")
        ip("link", "set", network, "up")
        for host in made:
            ip("netns", "add", host.name)
            ip("link", "add", host.link, "type", "veth", "peer", "eth0", "netns", host.name)
            ip("link", "set", host.link, "master", network, "up")
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                ip("-n", host.name, "link", "set", link, "up")
        yield made
    finally:
        for host in made:
            with contextlib.suppress(RuntimeError):  # it was not made
                host.kill_all()
                ip("netns", "delete", host.name)
        with contextlib.suppress(RuntimeError):
            ip("link", "delete", network)


def ip(*arguments: str) -> str:
    """What the command ``ip`` prints.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
