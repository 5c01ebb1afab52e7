"""Claim: exported files give the outputs of the network for every transformer, and are not slower.

    python -m benchmarks.portable                 the largest difference for each family, padding mode and antialiasing
    python -m benchmarks.portable --speed         ONNX Runtime, pt2 and the network itself at batch 1 and 64

Networks are untrained, for CIFAR-10, with one thread.
"""

import argparse
import io
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import product

import numpy as np
import onnxruntime
import torch

from benchmarks.measure import report
from benchmarks.untrained_models import CLASSES, MEAN, SHAPE, STD
from pipelines.runtime.errors import run_main
from pipelines.serving.portable import compare, run_onnx, run_program, to_onnx, to_pt2
from stn.classifiers import RawClassifier, build_network
from stn.settings import NetworkSettings, Normalization, TransformerSettings
from stn.transforms import PADDING_MODES, TRANSFORMS

TEXTS = {"variant": "untrained"}


def make_network(family: str, padding_mode: str, antialias: int) -> RawClassifier:
    """Make an untrained network whose θ differs between images."""
    torch.manual_seed(0)
    transformer = TransformerSettings((family,), padding_mode=padding_mode, antialias=antialias)
    network = build_network(NetworkSettings(SHAPE, len(CLASSES), transformer))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return RawClassifier(network, Normalization(MEAN, STD)).eval()


def export_program(network: RawClassifier) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def measure_differences() -> None:
    metrics = {}
    for family, padding_mode, antialias in product(TRANSFORMS, PADDING_MODES, (1, 2)):
        program = export_program(make_network(family, padding_mode, antialias))
        expected = run_program(program, images(256))
        differences = compare(expected, run_onnx(to_onnx(program, list(expected), TEXTS), images(256)), family)
        largest = max(differences.values())
        metrics[f"{family}, {padding_mode}, antialias {antialias}: difference × 10⁶"] = [1e6 * largest]
        print(f"{family}, {padding_mode}, antialias {antialias}: {differences}", flush=True)
    report("portable", metrics)


def measure_speed(repeats: int) -> None:
    network = make_network("affine", "zeros", 1)
    program = export_program(network)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(program, ["class", "probabilities", "theta"], TEXTS), options)
    loaded = torch.export.load(io.BytesIO(to_pt2(program, [], TEXTS))).module()
    torch.set_num_threads(1)
    runs: dict[str, Callable[[np.ndarray], object]] = {
        "ONNX Runtime": lambda batch: session.run(None, {"images": batch}),
        "pt2": lambda batch: loaded(torch.from_numpy(batch)),
        "eager": lambda batch: network(torch.from_numpy(batch)),
    }
    metrics: dict[str, list[float]] = defaultdict(list)
    with torch.inference_mode():
        for _ in range(repeats):
            for size, calls in ((1, 200), (64, 20)):
                batch, seconds = images(size), defaultdict(list)
                for _ in range(calls):
                    for name, run in runs.items():
                        started = time.perf_counter()
                        run(batch)
                        seconds[name].append(time.perf_counter() - started)
                for name, values in seconds.items():
                    metrics[f"{name}, batch {size}, median, ms"].append(1e3 * float(np.median(values)))
    report("portable_speed", dict(metrics))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure times instead of differences")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    measure_speed(arguments.repeats) if arguments.speed else measure_differences()


if __name__ == "__main__":
    run_main(main)
