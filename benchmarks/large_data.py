"""Claim: data that are larger than the memory are prepared and trained on, and reading batches costs little.

    python -m benchmarks.large_data generate FOLDER --images 57000 --size 224    class folders of JPEG files
    python -m benchmarks.large_data memory -- COMMAND                            the peak memory of all its processes
    python -m benchmarks.large_data residency --repeats 3                        host against device residency

``memory`` adds up the anonymous pages of the command's processes (``Pss_Anon`` of /proc/<pid>/smaps_rollup, and
``Pss_Shmem`` for Ray's object store). Pages of memory-mapped files do not count: the kernel drops them when memory is
short. ``residency`` trains on the prepared data of the current folder.
"""

import argparse
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from benchmarks.measure import report
from pipelines.runtime.errors import run_main

SAMPLE_EVERY_S = 0.1
CLASSES = 10


def generate_image(folder: Path, size: int, number: int) -> None:
    """Write a JPEG file with a smooth random picture of its class."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(number)
    colors = generator.integers(0, 256, (max(2, size // 16), max(2, size // 16), 3), dtype=np.uint8)
    path = folder / f"class{number % CLASSES}" / f"{number:06}.jpg"
    Image.fromarray(colors).resize((size, size), Image.Resampling.BICUBIC).save(path, quality=85)


def generate(folder: Path, images: int, size: int) -> None:
    """Write class folders of JPEG files, on all cores."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(partial(generate_image, folder, size), range(images), chunksize=200):
            pass


def measure_memory(command: list[str]) -> int:
    """Run a command and print the peak memory of its processes; returns its exit code."""
    main = psutil.Popen(command)
    peak, largest = defaultdict(int), 0
    while main.poll() is None:
        used: dict[str, int] = defaultdict(int)
        processes = [main]
        try:
            processes += main.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
        for process in processes:
            for name, size in read_pages(process.pid).items():
                used[name] += size
        total = used["Pss_Anon"] + used["Pss_Shmem"]
        if total > largest:
            largest, peak = total, used
        time.sleep(SAMPLE_EVERY_S)
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in peak.items())
    print(f"peak memory: {largest / 2**30:.2f} GiB in all processes ({parts})", flush=True)
    return main.returncode


def read_pages(pid: int) -> dict[str, int]:
    """The bytes of each kind of page of a process; empty if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    values = (line.split() for line in lines)
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in values if name.startswith("Pss_")}


def measure_residency(repeats: int) -> None:
    """Train the baseline network on the prepared data with both residencies, in turns."""
    import torch

    from pipelines.outputs.prepared_data import load_meta, load_training
    from pipelines.settings.params import load_params
    from pipelines.settings.variants import BASELINE, load_variant
    from pipelines.training.batches import make_training_data
    from pipelines.training.recipe import recipe_of
    from pipelines.training.trainer import Trainer
    from stn.training import default_device

    params, variant, meta = load_params(), load_variant(BASELINE), load_meta()
    recipe, device = recipe_of(params.train, variant), default_device()
    trainers = {}
    for residency in ("device", "host"):
        data = make_training_data(load_training(), meta, recipe, device, residency=residency)
        make_network = meta.network_builder(variant, params.train.dropout)
        trainers[residency] = Trainer(make_network, recipe, data, seed=0, precision=torch.float32)
    metrics: dict[str, list[float]] = defaultdict(list)
    for number in range(repeats):
        speeds = {name: trainer.train_epoch()["images_per_second"] for name, trainer in trainers.items()}
        for name, speed in speeds.items():
            metrics[f"{name}, images/s"].append(speed)
        metrics["host / device"].append(speeds["host"] / speeds["device"])
        print(f"repeat {number + 1} of {repeats}: {speeds['host']:,.0f} / {speeds['device']:,.0f}", flush=True)
    losses = {name: [epoch["train_loss"] for epoch in trainer.history] for name, trainer in trainers.items()}
    assert losses["host"] == losses["device"], losses
    report("residency", dict(metrics))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    generating = commands.add_parser("generate")
    generating.add_argument("folder", type=Path)
    generating.add_argument("--images", type=int, default=57_000)
    generating.add_argument("--size", type=int, default=224)
    commands.add_parser("memory").add_argument("program", nargs=argparse.REMAINDER)
    commands.add_parser("residency").add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.command == "generate":
        generate(arguments.folder, arguments.images, arguments.size)
    elif arguments.command == "memory":
        raise SystemExit(measure_memory([word for word in arguments.program if word != "--"]))
    else:
        measure_residency(arguments.repeats)


if __name__ == "__main__":
    run_main(main)
