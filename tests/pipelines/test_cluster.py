"""plan: what is asked of Ray fits where Ray would put it, since it waits for ever for what does not."""

import pytest

from pipelines import cluster
from pipelines.errors import UserError
from pipelines.params import TrainParams, load_params


def train_params(**changes) -> TrainParams:
    return load_params().train.model_copy(update=changes)


def on(monkeypatch, *nodes: tuple[int, int]) -> None:
    """A cluster whose nodes have so many (CPUs, GPUs)."""
    alive = [
        {"Alive": True, "Resources": {kind: float(n) for kind, n in (("CPU", cpu), ("GPU", gpu)) if n}}
        for cpu, gpu in nodes
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
