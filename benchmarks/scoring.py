"""Measures `make score` with one process and with two, beside a plain loop over the same files.

    python -m benchmarks.scoring --files 20000

The plain loop reads, decodes and classifies the files in batches of 64, in one process with one thread. The times of
`score` contain the start of the processes that hold the model, but not that of Ray. The model is an untrained network
for CIFAR-10.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import report, start_process
from benchmarks.untrained_models import NAME, SHAPE, registry
from pipelines.runtime.errors import ExternalError, run_main
from pipelines.serving.loaded_version import load_version
from pipelines.serving.scorer import BATCH
from pipelines.serving.scoring import score
from pipelines.tracking.client import connect


def run_loop(files: Sequence[str]) -> float:
    """Classify files in a plain loop; returns images/s without the time to load the model."""
    torch.set_num_threads(1)
    version = load_version(connect(), NAME, "champion")
    started = time.perf_counter()
    for start in range(0, len(files), BATCH):
        contents = [Path(file).read_bytes() for file in files[start : start + BATCH]]
        version.predict(np.stack([version.decode(content) for content in contents]))
    return len(files) / (time.perf_counter() - started)


def run_score(source: str, out: str, actors: int, images: int) -> float:
    """Score a folder; returns images/s without the start of Ray."""
    scored = score(NAME, "champion", source, out, actors)
    if scored.scored != images:
        raise ExternalError(f"{scored.scored} of {images} images were scored")
    return scored.now / scored.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    metrics: dict[str, list[float]] = defaultdict(list)
    generator = np.random.default_rng(0)
    with registry(1), TemporaryDirectory() as folder:
        source = Path(folder) / "images"
        source.mkdir()
        channels, height, width = SHAPE
        for i in range(arguments.files):
            pixels = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
            Image.fromarray(pixels).save(source / f"{i:06}.png")
        files = sorted(map(str, source.iterdir()))
        for repeat in range(arguments.repeats):
            with start_process() as process:
                metrics["plain loop, images/s"].append(process.submit(run_loop, files).result())
            for actors in (1, 2):
                with start_process() as process:
                    out = f"{folder}/out-{repeat}-{actors}"
                    rate = process.submit(run_score, str(source), out, actors, len(files)).result()
                metrics[f"score, {actors} actors, images/s"].append(rate)
    report("scoring", dict(metrics))


if __name__ == "__main__":
    run_main(main)
