"""Claim: training as params.yaml has it takes several times as many images a second as the baseline's loop.

Both sides train the baseline's 39,884 parameters on the training split of data/prepared, an epoch of each in turn, in
processes of their own: ours as a training worker does it, the other is benchmarks/baseline_loop.py. Validation is in
neither's seconds. Then a step of ours in parts, in µs for each image, beside the kernels that it cannot do without
(convolutions, matrix products and bilinear sampling), by PyTorch's profiler.

    python -m benchmarks.training_throughput --repeats 5
"""

import argparse
import os
import time
from collections import defaultdict
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.baseline_loop import SeedLoop
from benchmarks.measure import report, side
from pipelines.outputs.prepared_data import load_arrays, load_meta
from pipelines.runtime.errors import run
from pipelines.settings.params import load_params
from pipelines.settings.variants import load_variant
from pipelines.training.trainer import Trainer, make_batches
from stn.training import choose_precision

KERNELS = ("convolution", "mm", "grid_sampler")
STEPS = 40


@cache
def make_fit(variant: str) -> Trainer:
    """What a training worker of params.yaml trains, on all cores."""
    params, meta = load_params(), load_meta()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    recipe = params.train.model_dump()
    precision, _ = choose_precision(params.train.precision, device)
    training, validation = make_batches(load_arrays(), meta, recipe, device)
    return Trainer(recipe, load_variant(variant).model_dump(), meta, training, validation, 0, precision)


@cache
def make_seed_loop() -> SeedLoop:
    """The other side."""
    return SeedLoop()


def our_epoch(variant: str) -> float:
    """Images a second of one epoch."""
    return make_fit(variant).epoch()["images_per_second"]


def their_epoch() -> float:
    """Images a second of one epoch."""
    loop = make_seed_loop()
    return len(loop.loader.dataset) / loop.epoch()  # pyright: ignore[reportArgumentType]


def parts_of_a_step() -> dict[str, list[float]]:
    """µs for each image of each part of a step, and of its kernels alone."""
    fit = make_fit("stn")
    size = fit.recipe["batch_size"]
    transformer = fit.network.transformer
    assert transformer is not None
    batches, images_of = fit.training.shuffled(size, 0, 0), size * STEPS
    enabled = fit.precision == torch.bfloat16
    fit.network.train()

    def steps(part) -> None:
        for _ in range(STEPS):
            with part("batch making"):
                images, labels = next(batches)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=enabled):
                with part("localization"):
                    theta = transformer.theta(images)
                with part("sampling"):
                    warped = transformer.warp(images, theta)
                with part("classifier"):
                    logits = fit.network.classifier(warped)
            with part("loss"):
                loss = F.cross_entropy(logits.float(), labels)
            with part("backward"):
                fit.optimizer.zero_grad()
                loss.backward()
            with part("optimizer"):
                nn.utils.clip_grad_norm_(fit.network.parameters(), fit.recipe["max_grad_norm"])
                fit.optimizer.step()
                fit.scheduler.step()

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

    steps(Clock)  # to warm up
    seconds.clear()
    steps(Clock)
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
        steps(record_function)
    kernels: dict[str, float] = defaultdict(float)

    def walk(event, name: str) -> None:
        if any(kernel in event.name for kernel in KERNELS):
            kernels[name] += event.self_device_time_total if cuda else event.self_cpu_time_total
        for child in event.cpu_children:
            walk(child, name)

    for event in profiler.events() or ():
        if event.name in seconds:
            walk(event, event.name)
    table = {}
    for name, total in seconds.items():
        table[f"{name}, µs an image"] = [1e6 * total / images_of]
        table[f"{name}, its kernels alone, µs an image"] = [kernels[name] / images_of]
    return table


def transformer_alone() -> float:
    """µs for each image of localization and sampling, forward and backward, the classifier left out."""
    fit = make_fit("stn")
    transformer, size = fit.network.transformer, fit.recipe["batch_size"]
    assert transformer is not None
    images, _ = next(fit.training.shuffled(size, 0, 0))
    gradient = torch.randn_like(images)
    started = 0.0
    for step in range(2 * STEPS):
        if step == STEPS:
            started = time.perf_counter()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=fit.precision == torch.bfloat16):
            warped = transformer(images)
        warped.backward(gradient.to(warped.dtype))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - started) / (size * STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    figures: dict[str, list[float]] = defaultdict(list)
    with side() as ours, side() as theirs, side() as parts:
        ours.submit(our_epoch, "stn").result()  # to warm up
        for number in range(repeats):
            ours_per_second = ours.submit(our_epoch, "stn").result()
            theirs_per_second = theirs.submit(their_epoch).result()
            figures["ours, images a second"].append(ours_per_second)
            figures["the baseline's loop, images a second"].append(theirs_per_second)
            figures["ours / the baseline's loop"].append(ours_per_second / theirs_per_second)
            figures["ours without a transformer, images a second"].append(ours.submit(our_epoch, "plain").result())
            alone = parts.submit(transformer_alone).result()
            figures["localization and sampling, forward and backward, µs an image"].append(alone)
            print(f"repeat {number + 1} of {repeats}: {ours_per_second:,.0f} / {theirs_per_second:,.0f}", flush=True)
        report("training_throughput", dict(figures) | parts.submit(parts_of_a_step).result())


if __name__ == "__main__":
    run(main)
