"""Claim: training with params.yaml processes several times as many images per second as the baseline's loop.

Both sides train the baseline's 39,884 parameters on the training split of data/prepared, alternating epoch by epoch, in
separate processes. Our side trains like a training worker; the other side is benchmarks/baseline_loop.py. Neither
includes validation. The benchmark then splits a step of our side into parts, in µs per image. PyTorch's profiler
measures the time of the indispensable kernels in each part: convolutions, matrix products and bilinear sampling.

    python -m benchmarks.training_throughput --repeats 5
"""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.baseline_loop import BaselineLoop
from benchmarks.measure import report, start_process
from pipelines.outputs.prepared_data import load_meta, load_training
from pipelines.runtime.errors import run_main
from pipelines.settings.params import load_params
from pipelines.settings.variants import BASELINE, load_variant
from pipelines.training.batches import make_training_data
from pipelines.training.precision import measure_precision
from pipelines.training.recipe import recipe_of
from pipelines.training.trainer import Trainer
from stn.training import default_device

KERNELS = ("convolution", "mm", "grid_sampler")
STEPS = 40


@cache
def make_trainer(name: str) -> Trainer:
    """Make the trainer of a variant as a training worker does with params.yaml, on all cores."""
    params, meta, variant = load_params(), load_meta(), load_variant(name)
    device = default_device()
    torch.set_num_threads(os.cpu_count() or 1)
    recipe = recipe_of(params.train, variant)
    data = make_training_data(load_training(), meta, recipe, device)
    make_network = meta.network_builder(variant, params.train.dropout)
    precision = measure_precision(recipe, make_network, data)
    return Trainer(make_network, recipe, data, seed=0, precision=precision.torch_dtype)


@cache
def make_baseline_loop() -> BaselineLoop:
    """Make the baseline's training loop."""
    return BaselineLoop()


def measure_ours(variant: str) -> float:
    """Train one epoch of a variant; return images per second."""
    return make_trainer(variant).train_epoch()["images_per_second"]


def measure_baseline() -> float:
    """Train one epoch with the baseline's loop; return images per second."""
    loop = make_baseline_loop()
    return len(loop.loader.dataset) / loop.train_epoch()  # pyright: ignore[reportArgumentType]


def run_steps(
    trainer: Trainer, batches: Iterator[tuple[Tensor, Tensor]], part: Callable[[str], AbstractContextManager]
) -> None:
    """Run :data:`STEPS` training steps; each part of a step runs in the context ``part(name)``."""
    network, transformer = trainer.network, trainer.network.transformer
    assert transformer is not None
    network.train()
    for _ in range(STEPS):
        with part("batch"):
            images, labels = next(batches)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=trainer.precision == torch.bfloat16):
            with part("localization"):
                theta = transformer.theta(images)
            with part("sampling"):
                warped = transformer.warp(images, theta)
            with part("classifier"):
                logits = network.classifier(warped)
        with part("loss"):
            loss = F.cross_entropy(logits.float(), labels)
        with part("backward"):
            trainer.optimizer.zero_grad()
            loss.backward()
        with part("optimizer"):
            nn.utils.clip_grad_norm_(network.parameters(), trainer.recipe.max_grad_norm)
            trainer.optimizer.step()
            trainer.scheduler.step()


def measure_parts() -> dict[str, list[float]]:
    """Return µs per image of each part of a step, and of its kernels."""
    trainer = make_trainer(BASELINE)
    size = trainer.recipe.batch_size
    batches, images = trainer.training.shuffled(size, 0, 0), size * STEPS
    cuda = torch.cuda.is_available()
    seconds: dict[str, float] = defaultdict(float)

    class Clock:
        def __init__(self, name: str):
            self.name = name

        def __enter__(self) -> None:
            self.started = time.perf_counter()

        def __exit__(self, *_) -> None:
            if cuda:
                torch.cuda.synchronize()
            seconds[self.name] += time.perf_counter() - self.started

    run_steps(trainer, batches, Clock)  # warm up
    seconds.clear()
    run_steps(trainer, batches, Clock)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    # With a GPU, the backward pass runs in another thread, outside the part "backward".
    with torch.autograd.set_multithreading_enabled(False), profile(activities=activities) as profiler:
        run_steps(trainer, batches, record_function)
    kernels: dict[str, float] = defaultdict(float)

    def add_kernels(event, name: str) -> None:
        if any(kernel in event.name for kernel in KERNELS):
            kernels[name] += event.self_device_time_total if cuda else event.self_cpu_time_total
        for child in event.cpu_children:
            add_kernels(child, name)

    for event in profiler.events() or ():
        if event.name in seconds:
            add_kernels(event, event.name)
    metrics = {}
    for name, total in seconds.items():
        metrics[f"{name}, µs/image"] = [1e6 * total / images]
        metrics[f"{name}, kernels only, µs/image"] = [kernels[name] / images]
    return metrics


def measure_transformer() -> float:
    """Return µs per image of localization and sampling, forward and backward, without the classifier."""
    trainer = make_trainer(BASELINE)
    transformer, size = trainer.network.transformer, trainer.recipe.batch_size
    assert transformer is not None
    images, _ = next(trainer.training.shuffled(size, 0, 0))
    gradient = torch.randn_like(images)
    started = 0.0
    for step in range(2 * STEPS):
        if step == STEPS:
            started = time.perf_counter()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=trainer.precision == torch.bfloat16):
            warped = transformer(images)
        warped.backward(gradient.to(warped.dtype))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - started) / (size * STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    metrics: dict[str, list[float]] = defaultdict(list)
    with start_process() as ours, start_process() as baseline, start_process() as parts:
        ours.submit(measure_ours, BASELINE).result()  # warm up
        for number in range(repeats):
            our_speed = ours.submit(measure_ours, BASELINE).result()
            baseline_speed = baseline.submit(measure_baseline).result()
            metrics["ours, images/s"].append(our_speed)
            metrics["baseline loop, images/s"].append(baseline_speed)
            metrics["ours / baseline loop"].append(our_speed / baseline_speed)
            metrics["ours without a transformer, images/s"].append(ours.submit(measure_ours, "plain").result())
            microseconds = parts.submit(measure_transformer).result()
            metrics["localization and sampling, forward and backward, µs/image"].append(microseconds)
            print(f"repeat {number + 1} of {repeats}: {our_speed:,.0f} / {baseline_speed:,.0f} images/s", flush=True)
        report("training_throughput", dict(metrics) | parts.submit(measure_parts).result())


if __name__ == "__main__":
    run_main(main)
