"""Claim: threads that spin for 10,000 rounds are almost as fast as the default alone, and faster beside others.

OpenMP threads spin at barriers by default. While one core is taken by another program, each barrier then waits for a
thread that does not run. The benchmark trains the baseline network on random images of CIFAR-10's size, in a process of
its own for each policy and number of threads, beside 0, 1 and 2 processes that keep a core busy. The settings take
turns within each repeat. The precision is bf16 on CPUs with bf16 instructions: steps are short there, and threads wait
more often for one another.

    python -m benchmarks.threads --repeats 3
    python -m benchmarks.threads --repeats 3 --precision fp32
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.measure import report
from pipelines.runtime.errors import run_main
from stn.precision import choose_precision

# Environment of each policy; GNU OpenMP reads it when torch is imported.
POLICIES = {
    "active": {"OMP_WAIT_POLICY": "active"},
    "default": {},
    **{f"spin {rounds:,}": {"GOMP_SPINCOUNT": str(rounds)} for rounds in (1000, 3000, 10_000, 30_000)},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
SECONDS = 4.0
TRAIN = """
import sys, time, torch
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.classifiers import build_network
from stn.settings import NetworkSettings, Normalization, Recipe, TransformerSettings
from stn.optimizers import make_optimizer
from stn.training import one_cycle, train_epoch
torch.set_num_threads(int(sys.argv[1]))
precision = getattr(torch, sys.argv[3])
generator = torch.Generator().manual_seed(0)
images = torch.randint(256, (2048, 3, 32, 32), generator=generator).byte()
labels = torch.randint(10, (2048,), generator=generator)
augmentation = Augmentation(flip=True, shift=2)
batches = Batches(images, labels, Normalization([0.5] * 3, [0.25] * 3), torch.device("cpu"), augmentation)
network = build_network(NetworkSettings((3, 32, 32), 10, TransformerSettings()))
network.to(memory_format=torch.channels_last)
recipe = Recipe(epochs=1, batch_size=256, optimizer="muon", lr=0.01)
optimizer = make_optimizer(network, recipe)
scheduler = one_cycle(optimizer, 10**6, 0.2)
def epoch(number):
    shuffled = batches.shuffled(256, 0, number)
    train_epoch(network, shuffled, optimizer, scheduler, recipe, precision=precision)
epoch(0)
started, done = time.perf_counter(), 0
while time.perf_counter() - started < float(sys.argv[2]):
    done += 1
    epoch(done)
print(done * len(images) / (time.perf_counter() - started))
"""


@contextmanager
def busy_cores(number: int) -> Iterator[None]:
    """Run ``number`` processes that compute without a pause for the duration of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def images_per_second(policy: str, threads: int, precision: torch.dtype) -> float:
    """Train for SECONDS in a new process; returns images per second."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | POLICIES[policy]
    command = [sys.executable, "-c", TRAIN, str(threads), str(SECONDS), str(precision).removeprefix("torch.")]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    arguments = parser.parse_args()
    precision, reason = choose_precision(arguments.precision, torch.device("cpu"))
    print(f"{str(precision).removeprefix('torch.')}: {reason}", flush=True)
    metrics: dict[str, list[float]] = defaultdict(list)
    settings = [(policy, 2) for policy in POLICIES] + [("default", 1)]
    for _, busy, (policy, threads) in itertools.product(range(arguments.repeats), (0, 1, 2), settings):
        with busy_cores(busy):
            speed = images_per_second(policy, threads, precision)
        metrics[f"{busy} busy core(s), {threads} thread(s), {policy}, images/s"].append(speed)
        print(f"{busy} busy, {threads} thread(s), {policy}: {speed:,.0f} images/s", flush=True)
    report("threads", metrics)


if __name__ == "__main__":
    run_main(main)
