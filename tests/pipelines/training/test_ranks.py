"""Ranks that train seeds of their own agree at the start, and then exchange nothing."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from pipelines.training.ranks import all_reduce, broadcast, leave_group


def run_rank(rank: int, folder: str) -> tuple[str, float, float]:
    """What a rank of two receives, and the sums of its number over the ranks before and after it has left."""
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", timedelta(minutes=2), rank=rank, world_size=2)
    received = broadcast("of rank 0" if rank == 0 else None)
    before = all_reduce(torch.tensor([rank + 1.0])).item()
    leave_group()
    return received, before, all_reduce(torch.tensor([rank + 1.0])).item()


def test_after_leaving_a_rank_is_alone(tmp_path: Path):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        other = pool.submit(run_rank, 1, str(tmp_path))
        assert run_rank(0, str(tmp_path)) == ("of rank 0", 3.0, 1.0)
        assert other.result() == ("of rank 0", 3.0, 2.0)


def test_without_a_group_a_value_stays_as_it_is():
    leave_group()
    assert broadcast(7) == 7 and all_reduce(torch.ones(1)).item() == 1
