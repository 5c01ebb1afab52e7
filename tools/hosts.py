"""Hosts simulated on one machine by network namespaces that a bridge joins.

Each host has its own address, interface and loopback. It can be cut off: its packets are then dropped without notice,
as if its cable were unplugged. All hosts share processors and memory, and the file system except for hidden folders.
Linux, iproute2 and root are required.
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

# `ip netns exec` gives each command its own mount namespace; a hidden folder appears empty in it.
HIDE = 'while [ "$1" != -- ]; do mount -t tmpfs tmpfs "$1"; shift; done; shift; exec "$@"'


# As in docs/cluster.md, with longer timeouts. Ray gives up a host that is cut off after about 20 s. It must not give
# up a host that is slow because all hosts share two busy cores.
HEALTH_CHECKS = '{"health_check_period_ms": 1000, "health_check_timeout_ms": 4000, "health_check_failure_threshold": 4}'


class Host:
    """A host at ``address``; folders in ``hidden`` appear empty to its processes."""

    def __init__(self, network: str, number: int, address: str):
        self.name, self.address = f"{network}-{number}", address
        self.link = f"{network}v{number}"  # the bridge's end of the virtual cable
        self.hidden: list[Path] = []

    def command(self, *command: str) -> list[str]:
        """The command line that runs ``command`` on this host."""
        hidden = [str(folder) for folder in self.hidden]
        return ["ip", "netns", "exec", self.name, "sh", "-c", HIDE, "sh", *hidden, "--", *command]

    def cut_off(self) -> None:
        """Drop all packets from and to the host; its processes keep running."""
        ip("link", "set", self.link, "down")

    def reconnect(self) -> None:
        """Undo :meth:`cut_off`."""
        ip("link", "set", self.link, "up")

    def is_cut_off(self) -> bool:
        """Whether the host is cut off."""
        return "UP" not in ip("-brief", "link", "show", self.link).partition("<")[2].partition(">")[0].split(",")

    def bytes_sent(self) -> int:
        """Bytes sent to other hosts so far."""
        return int(Path(f"/sys/class/net/{self.link}/statistics/rx_bytes").read_text())

    def kill_all(self) -> None:
        """Kill all processes on the host."""
        for pid in ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


class Cluster:
    """A Ray cluster of such hosts with its own token. The head runs commands and lends no CPUs.

    Args:
        cpus: number of CPUs that each of ``workers`` lends.
        env: environment of all processes; RAY_ADDRESS is added for commands on the head.
        folder: folder of Ray's files; its path must be short, because it holds Ray's sockets.
        python: the Python of all processes.

    Raises:
        RuntimeError: Ray does not start on a host.
    """

    def __init__(
        self,
        head: Host,
        workers: list[Host],
        cpus: int,
        env: dict[str, str],
        folder: Path,
        *,
        python: str = sys.executable,
    ):
        self.head, self.workers, self.cpus, self.python = head, workers, cpus, python
        self.env = env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._start(
            head, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false",
            f"--temp-dir={folder}", f"--system-config={HEALTH_CHECKS}",
        )  # fmt: skip
        for worker in workers:
            self.join(worker)
        self.env["RAY_ADDRESS"] = f"{head.address}:6379"

    def join(self, worker: Host) -> None:
        """Let a host join the cluster."""
        self._start(worker, f"--address={self.head.address}:6379", f"--num-cpus={self.cpus}")

    def _start(self, host: Host, *arguments: str) -> None:
        ray = (self.python, "-m", "ray.scripts.scripts")  # the command `ray`
        command = host.command(*ray, "start", "--node-ip-address", host.address, *arguments)
        done = subprocess.run(
            command, env=self.env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise RuntimeError(f"ray start on {host.name}: {done.stdout}")

    def drive(self, folder: Path, *arguments: str) -> subprocess.Popen:
        """Start Python on the head in ``folder``; standard output and error share one pipe."""
        return subprocess.Popen(
            self.head.command(self.python, *arguments), env=self.env, cwd=folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def why_not() -> str:
    """Why hosts cannot be created on this machine; empty if they can."""
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
    """Create ``count`` hosts on one bridge; at the end of the block they and their processes are removed."""
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
            with contextlib.suppress(RuntimeError):  # it was not created
                host.kill_all()
                ip("netns", "delete", host.name)
        with contextlib.suppress(RuntimeError):
            ip("link", "delete", network)


def ip(*arguments: str) -> str:
    """Run the command ``ip`` and return its output.

    Raises:
        RuntimeError: the command failed.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
