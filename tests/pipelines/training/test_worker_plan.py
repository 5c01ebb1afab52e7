"""plan_workers: the workers fit on the cluster, since Ray waits forever for workers that do not."""

import pytest

from pipelines.runtime.errors import UserError
from pipelines.settings.params import TrainParams, load_params
from pipelines.settings.workers import WorkerRange
from pipelines.training.host_watch import HostWatch
from pipelines.training.worker_plan import Node, plan_workers
from tests.pipelines.training.test_cluster import pretend_nodes


def as_nodes(nodes: list[tuple[int, int]]) -> list[Node]:
    return [Node(*node) for node in nodes]


def train_params(**changes) -> TrainParams:
    return load_params().train.model_copy(update=changes)


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([(2, 0)], "auto", (1, 2, False)),  # one worker on all cores
        ([(2, 0)], 2, (2, 1, False)),
        ([(16, 4)], "auto", (4, 4, True)),  # a worker for each GPU, cores shared
        ([(32, 0), (8, 8)], "auto", (8, 1, True)),  # a head without a GPU lends no cores
        ([(0, 0), (8, 0), (8, 0)], 4, (4, 4, False)),  # a node without cores does not count
        ([(8, 0), (4, 0)], 2, (2, 4, False)),  # the smallest node sets the threads
        ([(8, 2), (8, 4)], 3, (3, 2, True)),
    ],
)
def test_workers_fit_the_cluster(nodes, workers, expected):
    plan = plan_workers(train_params(workers=workers), as_nodes(nodes))
    assert (plan.number, plan.threads, plan.gpu) == expected
    assert plan.least == plan.most == plan.number == plan.room(as_nodes(nodes))
    # The oracle: place the workers one by one.
    room = [list(node) for node in nodes]
    for _ in range(plan.number):
        node = next(n for n in room if n[0] >= plan.threads and (n[1] >= 1 or not plan.gpu))
        node[0] -= plan.threads
        node[1] -= plan.gpu


@pytest.mark.parametrize(
    ("nodes", "changes", "expected"),
    [
        ([(16, 4)], {"workers": "auto", "seeds": [0, 1, 2]}, (3, 4, True)),  # one GPU for each seed
        ([(8, 2)], {"workers": "auto", "seeds": [0, 1, 2]}, (2, 4, True)),
        ([(4, 1), (4, 1)], {"workers": "auto", "seeds": [0, 1]}, (2, 4, True)),
        ([(2, 0)], {"workers": "per_seed", "seeds": [0, 1, 2]}, (2, 1, False)),
        ([(8, 0)], {"workers": "per_seed", "seeds": [0, 1, 2]}, (3, 2, False)),
        ([(2, 0)], {"workers": "per_seed", "seeds": [5]}, (1, 2, False)),
        ([(8, 1)], {"workers": "per_seed", "seeds": [0, 1]}, (1, 8, True)),
        ([(4, 0)], {"workers": "per_seed", "seeds": [0, 1, 2], "threads": 2}, (2, 2, False)),
    ],
)
def test_a_worker_for_each_seed(nodes, changes, expected):
    plan = plan_workers(train_params(**changes), as_nodes(nodes))
    assert plan.per_seed and (plan.number, plan.threads, plan.gpu) == expected
    assert plan.least == plan.most == plan.number == plan.room(as_nodes(nodes))
    assert plan.sharing == plan.most_sharing == 1
    assert "each trains seeds of its own" in str(plan)


@pytest.mark.parametrize(
    ("nodes", "changes", "number", "idle"),
    [
        ([(16, 8)], {"seeds": [0, 1, 2]}, 3, 5),  # a GPU for each seed
        ([(8, 1)], {"seeds": [0, 1]}, 1, 0),  # one GPU trains the seeds one after another
        ([(2, 0)], {"seeds": [0, 1]}, 1, 0),
        ([(16, 8)], {"seeds": [0], "batch_size": 256}, 8, 0),
        ([(16, 8)], {"seeds": [0], "batch_size": 255}, 7, 1),
        ([(16, 8)], {"seeds": [0], "batch_size": 16}, 1, 7),
    ],
)
def test_auto_shares_a_batch_among_gpus_only_if_the_shares_are_large(nodes, changes, number, idle):
    plan = plan_workers(train_params(workers="auto", **changes), as_nodes(nodes))
    assert plan.number == number and plan.idle_gpus == idle
    assert plan.sharing == (1 if plan.per_seed else number)
    assert (f"{idle} GPU(s) stay idle unless train.workers is a number" in str(plan)) == (idle > 0)


def test_threads_for_which_there_is_no_room_are_refused():
    for workers in ("per_seed", "auto"):
        with pytest.raises(UserError, match=rf"train\.workers: {workers} given, of 3 thread"):
            plan_workers(train_params(workers=workers, seeds=[0, 1], threads=3), as_nodes([(2, 0)]))


@pytest.mark.parametrize(
    ("nodes", "changes"),
    [
        ([(2, 0)], {"workers": 3}),
        ([(2, 0)], {"workers": 1, "threads": 3}),
        ([(16, 2)], {"workers": 3}),
        ([(32, 0), (8, 8)], {"workers": 8, "threads": 2}),  # enough cores, but not on the nodes with GPUs
        ([(3, 0), (3, 0)], {"workers": 3, "threads": 2}),  # six cores, but no node has room for two workers
    ],
)
def test_what_would_wait_forever_is_refused(nodes, changes):
    with pytest.raises(UserError, match=f"train.workers: {changes['workers']} given"):
        plan_workers(train_params(**changes), as_nodes(nodes))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([(0, 0), (8, 0), (8, 0)], (4, 4, False)),
        ([(1, 0)], (1, 1, False)),  # as many as there is room for
        ([(1, 0), (4, 0)], (4, 1, False)),
        ([(4, 2), (4, 1)], (3, 2, True)),
    ],
)
def test_elastic_workers_are_as_many_as_fit(nodes, expected):
    plan = plan_workers(train_params(workers=WorkerRange(min=1, max=4)), as_nodes(nodes))
    assert (plan.number, plan.threads, plan.gpu) == expected
    assert (plan.least, plan.most) == (1, 4)
    assert f"{plan.number} worker{'s' * (plan.number > 1)} (1 to 4)" in str(plan)


def test_fewer_than_the_least_are_refused():
    for nodes in ([(1, 0)], [(8, 1)], [(0, 0)]):
        with pytest.raises(UserError, match=r"train\.workers: 2 given"):
            plan_workers(train_params(workers=WorkerRange(min=2, max=4)), as_nodes(nodes))


def test_hosts_that_leave_and_join_are_reported_with_the_consequence(monkeypatch):
    pretend_nodes(monkeypatch, (2, 0), (2, 0))
    watch = HostWatch(
        plan_workers(train_params(workers=WorkerRange(min=2, max=4), threads=1), as_nodes([(2, 0), (2, 0)]))
    )
    assert watch.changes() == []
    pretend_nodes(monkeypatch, (2, 0))
    (line,) = watch.changes()
    assert line == "host 10.0.0.2 is lost; training continues: there is room for 2 of at most 4 worker(s)"
    assert watch.changes() == []
    pretend_nodes(monkeypatch, (1, 0))
    assert watch.changes() == []  # the same host with fewer CPUs
    pretend_nodes(monkeypatch)
    (line,) = watch.changes()
    assert line == (
        "host 10.0.0.1 is lost; training waits for a replacement: it needs 2 worker(s), and there is room for 0"
    )
    pretend_nodes(monkeypatch, (8, 0))
    (line,) = watch.changes()
    assert line == "host 10.0.0.1 has joined; training continues: there is room for 4 of at most 4 worker(s)"
