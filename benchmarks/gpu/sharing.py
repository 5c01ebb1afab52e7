"""Several trainings on one GPU: in processes of their own, or side by side in one process."""

import time
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import spawn

from benchmarks.gpu.packed_images import random_splits
from benchmarks.gpu.trainings import RECIPE, Training, images_per_second_of_epochs

START_S = 60  # for a process to import torch and to capture its steps


def sharing(device: torch.device, images: int, batch_size: int, seconds: float) -> dict[str, Any]:
    """Images per second of all trainings together, and the memory of the GPU that they take, images included."""
    rows = {}
    for processes, seeds in ((1, 1), (4, 1), (1, 4), (2, 1), (1, 2)) if device.type == "cuda" else ((2, 1), (1, 2)):
        name = f"{processes} process(es) with {seeds} seed(s)"
        rows[name] = measure(device, processes, seeds, images, batch_size, seconds)
        print(f"  {name}: {rows[name]}", flush=True)
    return rows


def measure(
    device: torch.device, processes: int, seeds: int, images: int, batch_size: int, seconds: float
) -> dict[str, float]:
    """Train ``seeds`` networks side by side in each of ``processes`` processes, all at the same time."""
    context = mp.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.SimpleQueue()
    before = free_bytes(device)
    spawn(train, (device, seeds, images, batch_size, seconds, barrier, answers), processes)
    done, elapsed, free = zip(*(answers.get() for _ in range(processes)), strict=True)
    return {"images/s": sum(done) / max(elapsed), "GiB": (before - min(free)) / 2**30}


def train(
    _rank: int, device: torch.device, seeds: int, images: int, batch_size: int, seconds: float, barrier: Barrier,
    answers: SimpleQueue,
) -> None:  # fmt: skip
    """Train whole epochs for ``seconds``, from the time at which all processes have captured their steps."""
    torch.set_num_threads(1)
    split, recipe = random_splits({"train": images})["train"], replace(RECIPE, epochs=10_000, batch_size=batch_size)
    trainings = [Training(split, recipe, device, seed=seed) for seed in range(seeds)]
    started = 0.0

    def wait() -> None:
        nonlocal started
        barrier.wait(START_S)
        started = time.perf_counter()

    speed = images_per_second_of_epochs(trainings, seconds, wait)
    elapsed, free = time.perf_counter() - started, free_bytes(device)
    barrier.wait(START_S)  # until then, the memory of all is in use
    answers.put((speed * elapsed, elapsed, free))


def free_bytes(device: torch.device) -> int:
    """Free memory of the GPU; 0 on a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
