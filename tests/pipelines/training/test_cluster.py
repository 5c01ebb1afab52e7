"""The cluster: the number of tuning trials that fit on it, and what errors tell of memory."""

import traceback

import numpy as np
import pytest
import torch
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError

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
    found, taken = cluster.room_for_trials(share)
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
            pytest.fail("one would wait for ever")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: bytearray(2**62),
        lambda: np.empty(2**60, dtype=np.uint8),
        lambda: torch.empty(2**50, dtype=torch.uint8),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        lambda: (_ for _ in ()).throw(RayOutOfMemoryError("Task was killed due to the node running low on memory.")),
    ],
    ids=["Python", "NumPy", "PyTorch", "CUDA", "Ray"],
)
def test_memory_that_has_run_out_is_known_by_what_is_said(ask):
    """As Ray hands it on, as the text of a traceback."""
    with pytest.raises((MemoryError, RuntimeError, RayOutOfMemoryError)) as raised:
        ask()
    assert cluster.ran_out_of_memory("".join(traceback.format_exception(raised.value)))


def test_what_is_no_lack_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.dot(torch.zeros(2), torch.zeros(3))
    assert not cluster.ran_out_of_memory(str(raised.value))
