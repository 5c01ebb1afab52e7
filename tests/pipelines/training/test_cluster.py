"""plan: what is asked of Ray fits where Ray would put it, since it waits for ever for what does not."""

import traceback

import numpy as np
import pytest
import torch
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError

from pipelines.runtime.errors import UserError
from pipelines.settings.params import TrainParams, WorkerRange, load_params
from pipelines.training import cluster


def train_params(**changes) -> TrainParams:
    return load_params().train.model_copy(update=changes)


def on(monkeypatch, *nodes: tuple[int, int]) -> None:
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
    ("nodes", "workers", "expected"),
    [
        ([(2, 0)], "auto", (1, 2, False)),  # one worker on all cores
        ([(2, 0)], 2, (2, 1, False)),
        ([(16, 4)], "auto", (4, 4, True)),  # a worker for each GPU, cores shared
        ([(32, 0), (8, 8)], "auto", (8, 1, True)),  # a head without a GPU lends no cores
        ([(0, 0), (8, 0), (8, 0)], 4, (4, 4, False)),  # nor does one without cores hold up the others
        ([(8, 0), (4, 0)], 2, (2, 4, False)),  # the smallest node sets the threads
        ([(8, 2), (8, 4)], 3, (3, 2, True)),
    ],
)
def test_workers_fit_the_cluster(monkeypatch, nodes, workers, expected):
    on(monkeypatch, *nodes)
    plan = cluster.plan(train_params(workers=workers))
    assert (plan.number, plan.threads, plan.gpu) == expected
    assert plan.least == plan.most == plan.number == plan.room()
    # The oracle: put them one by one where there is room.
    room = [list(node) for node in nodes]
    for _ in range(plan.number):
        node = next(n for n in room if n[0] >= plan.threads and (n[1] >= 1 or not plan.gpu))
        node[0] -= plan.threads
        node[1] -= plan.gpu


@pytest.mark.parametrize(
    ("nodes", "changes"),
    [
        ([(2, 0)], {"workers": 3}),
        ([(2, 0)], {"workers": 1, "threads": 3}),
        ([(16, 2)], {"workers": 3}),
        ([(32, 0), (8, 8)], {"workers": 8, "threads": 2}),  # cores enough, but not beside the GPUs
        ([(3, 0), (3, 0)], {"workers": 3, "threads": 2}),  # six cores, but no node has room for two workers
    ],
)
def test_what_would_wait_for_ever_is_refused(monkeypatch, nodes, changes):
    on(monkeypatch, *nodes)
    with pytest.raises(UserError, match=f"train.workers: {changes['workers']} given"):
        cluster.plan(train_params(**changes))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([(0, 0), (8, 0), (8, 0)], (4, 4, False)),
        ([(1, 0)], (1, 1, False)),  # as many as there is room for
        ([(1, 0), (4, 0)], (4, 1, False)),
        ([(4, 2), (4, 1)], (3, 2, True)),
    ],
)
def test_elastic_workers_are_as_many_as_fit(monkeypatch, nodes, expected):
    on(monkeypatch, *nodes)
    plan = cluster.plan(train_params(workers=WorkerRange(min=1, max=4)))
    assert (plan.number, plan.threads, plan.gpu) == expected
    assert (plan.least, plan.most) == (1, 4)
    assert f"{plan.number} worker{'s' * (plan.number > 1)} (1 to 4)" in str(plan)


def test_fewer_than_the_least_are_refused(monkeypatch):
    for nodes in ([(1, 0)], [(8, 1)], [(0, 0)]):
        on(monkeypatch, *nodes)
        with pytest.raises(UserError, match=r"train\.workers: 2 given"):
            cluster.plan(train_params(workers=WorkerRange(min=2, max=4)))


def test_hosts_that_leave_and_join_are_told_with_what_it_means(monkeypatch):
    on(monkeypatch, (2, 0), (2, 0))
    watch = cluster.HostWatch(cluster.plan(train_params(workers=WorkerRange(min=2, max=4), threads=1)))
    assert watch.news() == []
    on(monkeypatch, (2, 0))
    (line,) = watch.news()
    assert line == "host 10.0.0.2 is lost; training goes on: there is room for 2 of at most 4 worker(s)"
    assert watch.news() == []
    on(monkeypatch, (1, 0))
    assert watch.news() == []  # the same host, whatever it lends
    on(monkeypatch)
    (line,) = watch.news()
    assert line == (
        "host 10.0.0.1 is lost; training waits for a replacement: it needs 2 worker(s), and there is room for 0"
    )
    on(monkeypatch, (8, 0))
    (line,) = watch.news()
    assert line == "host 10.0.0.1 has joined; training goes on: there is room for 4 of at most 4 worker(s)"


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
    on(monkeypatch, *nodes)
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
