"""The cluster: when it does not answer, the GPUs that it counts, and the number of tuning trials that fit on it."""

import socket
import subprocess
import sys

import pytest

from pipelines.runtime.errors import ExternalError
from pipelines.training import cluster


def pretend_nodes(monkeypatch, *nodes: tuple[int, int]) -> None:
    """A cluster whose nodes have so many (CPUs, GPUs)."""
    alive = [
        {"Alive": True, "Resources": {kind: float(n) for kind, n in (("CPU", cpu), ("GPU", gpu)) if n}}
        | {"NodeID": f"{number:x}", "NodeManagerAddress": f"10.0.0.{number}"}
        for number, (cpu, gpu) in enumerate(nodes, 1)
    ]
    monkeypatch.setattr(
        cluster.ray, "nodes", lambda: [*alive, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}]
    )


@pytest.mark.parametrize(("available", "counted"), [(True, 2), (False, 0)])
def test_a_gpu_that_torch_cannot_use_is_not_counted(monkeypatch, available, counted):
    """As with too old a driver: there are two GPUs, and Ray would give them to workers."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: available)
    given = {}
    monkeypatch.setattr(cluster.ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    with cluster.connected():
        assert given["num_gpus"] == counted


def test_a_cluster_that_does_not_answer_is_named_with_its_token(monkeypatch):
    """Ray raises the same error for a port of something else and for a token that a cluster does not know."""

    def refuse(**_):
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(cluster.ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as something:
        address = f"127.0.0.1:{something.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        said = rf"RAY_ADDRESS: '{address}': .* RAY_AUTH_TOKEN .*Failed to connect"
        with pytest.raises(ExternalError, match=said), cluster.connected():
            pass


@pytest.mark.parametrize("port", [None, "99999", "9" * 20])
def test_an_address_where_nothing_listens_is_named_at_once(monkeypatch, port):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{port or free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray would try for minutes"))
    with pytest.raises(ExternalError, match=f"RAY_ADDRESS: '{address}': no Ray cluster answers"), cluster.connected():
        pass


@pytest.mark.slow
def test_uv_run_copies_nothing():
    """Ray recognizes `uv run` among its parents, and then copies the current folder for its workers."""
    code = (
        "import pipelines.training.cluster; from ray._private import ray_constants; "
        "print(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("nodes", "share", "number"),
    [
        ([(2, 0)], 0.25, 2),  # a core each
        ([(0, 0), (8, 0), (4, 0)], 0.25, 12),
        ([(16, 1)], 0.25, 4),
        ([(16, 2)], 0.4, 4),  # two on each GPU: none is spread over both
        ([(16, 2)], 0.6, 2),
        ([(3, 2)], 0.25, 3),  # no more than there are cores
        ([(32, 0), (8, 1), (1, 1)], 0.5, 3),
        ([(64, 1)], 0.1, 10),
    ],
)
def test_trials_fit_the_cluster(monkeypatch, nodes, share, number):
    pretend_nodes(monkeypatch, *nodes)
    found, taken, _ = cluster.room_for_trials(share, memory=1)
    assert found == number
    # The oracle: each takes one core and its share of one single GPU.
    room = [(cpus, [1.0] * gpus) for cpus, gpus in nodes]
    for _ in range(found):
        for i, (cpus, gpus) in enumerate(room):
            free = [g for g, left in enumerate(gpus) if left >= taken - 1e-9]
            if cpus >= 1 and (free or not taken):
                room[i] = (cpus - 1, [left - taken * (g in free[:1]) for g, left in enumerate(gpus)])
                break
        else:
            pytest.fail("one would wait forever")


@pytest.mark.parametrize(
    ("memory", "gpus", "room"),
    [
        ((8, 8), 0, (8, 2)), ((3, 8), 0, (5, 2)), ((1, 1), 0, (2, 1)), ((3, None), 0, (5, 2)),
        ((3, 8), 1, (5, 2)), ((3, 5), 1, (3, 2)),
    ],
    ids=["enough", "one host has less", "too little for one", "a host does not say", "GPUs", "GPUs, less"],
)  # fmt: skip
def test_no_trial_reserves_more_memory_than_a_host_has(memory, gpus, room, monkeypatch):
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: True)
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": gpus} | ({} if size is None else {"memory": float(size)})}
        for size in memory
    ]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    number, _, reserved = cluster.room_for_trials(0.25, memory=2)
    assert (number, reserved) == room
