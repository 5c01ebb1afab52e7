"""Claim: a registered model, loaded as users load it, is almost as fast as the bare PyTorch forward pass.

The registered model is MLflow's pyfunc around an exported program. The bare forward pass is the same network from
models/, including normalization. The benchmark measures the latency of one image and the throughput of 256 images on
all cores, alternating between both sides.

    python -m benchmarks.inference --model models:/stn-cifar10@challenger
"""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable

import mlflow
import numpy as np
import torch

from benchmarks.measure import report, start_process
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.outputs.trained_models import load_trained
from pipelines.runtime.errors import run_main
from pipelines.tracking.client import connect
from stn.classifiers import RawClassifier

loaded: list[Callable[[np.ndarray], object]] = []  # the model of this process


def load_registered(uri: str) -> None:
    """Load a model from the registry with plain MLflow."""
    connect()
    torch.set_num_threads(os.cpu_count() or 1)
    loaded.append(mlflow.pyfunc.load_model(uri).predict)


def load_bare(variant: str, seed: int) -> None:
    """Load the network of the registered model from models/."""
    meta = load_meta()
    torch.set_num_threads(os.cpu_count() or 1)
    trained = next(model for model in load_trained(variant, meta) if model.seed == seed)
    raw = RawClassifier(trained.network, meta.normalization).eval()

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {name: values.numpy() for name, values in raw(torch.from_numpy(images)).items()}

    loaded.append(predict)


def measure(batch: int, calls: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds per call with ``batch`` images."""
    images = load_split("test").images[:batch].numpy().copy()
    (predict,) = loaded
    seconds = []
    for _ in range(calls + 10):
        started = time.perf_counter()
        predict(images)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[10:])), float(np.quantile(seconds[10:], 0.99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="URI of a model; default: the challenger for the prepared data set")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    client = connect()
    uri = arguments.model or f"models:/stn-{load_meta().dataset}@challenger"
    name, _, alias = uri.removeprefix("models:/").partition("@")
    version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(*name.split("/"))
    variant, seed = version.tags["variant"], int(version.tags["seed"])
    print(f"{version.name} version {version.version}: {variant}, seed {seed}")
    metrics: dict[str, list[float]] = defaultdict(list)
    with start_process() as registered, start_process() as bare:
        registered.submit(load_registered, uri).result()
        bare.submit(load_bare, variant, seed).result()
        for _ in range(arguments.repeats):
            for label, process in (("registered", registered), ("bare forward", bare)):
                median, slowest = process.submit(measure, 1, 300).result()
                metrics[f"{label}, one image, median, ms"].append(1e3 * median)
                metrics[f"{label}, one image, 99th percentile, ms"].append(1e3 * slowest)
                metrics[f"{label}, 256 images, images/s"].append(256 / process.submit(measure, 256, 30).result()[0])
    report("inference", dict(metrics))


if __name__ == "__main__":
    run_main(main)
