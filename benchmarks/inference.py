"""Claim: a registered model, loaded as a user loads it, is hardly slower than the bare PyTorch forward.

The registered model is MLflow's pyfunc around an exported program; the bare forward is the same network, normalization
included, from models/. Latency of one image and images a second of 256, alternating, on all cores.

    python -m benchmarks.inference --model models:/stn-cifar10@challenger
"""

import argparse
import os
import time
from collections import defaultdict

import mlflow
import numpy as np
import torch

from benchmarks.measure import report, side
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.outputs.trained_models import load_trained
from pipelines.runtime.errors import run
from pipelines.tracking.client import connect
from stn.classifiers import RawClassifier

sides: dict = {}


def load_registered(uri: str) -> None:
    """Load a model from the registry by plain MLflow."""
    connect()
    torch.set_num_threads(os.cpu_count() or 1)
    model = mlflow.pyfunc.load_model(uri)
    sides["call"] = model.predict


def load_bare(variant: str, seed: int) -> None:
    """The network that was registered, in this process."""
    meta = load_meta()
    torch.set_num_threads(os.cpu_count() or 1)
    trained = next(model for model in load_trained(variant, meta) if model.seed == seed)
    raw = RawClassifier(trained.network, meta["mean"], meta["std"]).eval()

    def call(images: np.ndarray) -> dict:
        with torch.inference_mode():
            return {name: values.numpy() for name, values in raw(torch.from_numpy(images)).items()}

    sides["call"] = call


def seconds(batch: int, calls: int) -> tuple[float, float]:
    """Median and 99th percentile of the seconds that a call takes on so many images."""
    images = load_split("test").images[:batch].numpy().copy()
    taken = []
    for _ in range(calls + 10):
        started = time.perf_counter()
        sides["call"](images)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[10:])), float(np.quantile(taken[10:], 0.99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model's URI; else the challenger of the prepared data set")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    client = connect()
    uri = arguments.model or f"models:/stn-{load_meta()['dataset']}@challenger"
    name, _, reference = uri.removeprefix("models:/").partition("@")
    if reference:
        version = client.get_model_version_by_alias(name, reference)
    else:
        version = client.get_model_version(*name.split("/"))
    variant, seed = version.tags["variant"], int(version.tags["seed"])
    print(f"{version.name} version {version.version}: {variant}, seed {seed}")
    figures: dict[str, list[float]] = defaultdict(list)
    with side() as registered, side() as bare:
        registered.submit(load_registered, uri).result()
        bare.submit(load_bare, variant, seed).result()
        for _ in range(arguments.repeats):
            for label, process in (("registered", registered), ("bare forward", bare)):
                median, slowest = process.submit(seconds, 1, 300).result()
                figures[f"{label}, one image, median ms"].append(1e3 * median)
                figures[f"{label}, one image, 99th percentile ms"].append(1e3 * slowest)
                figures[f"{label}, 256 images, images a second"].append(
                    256 / process.submit(seconds, 256, 30).result()[0]
                )
    report("inference", dict(figures))


if __name__ == "__main__":
    run(main)
