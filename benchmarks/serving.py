"""Claim: `make serve` answers almost as fast as the bare forward pass, and rejects malformed requests.

The benchmark sends single images and batches of 64 images over HTTP, alternating with the bare forward pass of the same
exported program. Then 8 clients send 10,000 requests with one image each, 1 % of them malformed. Each response is
checked.

    python -m benchmarks.serving --model stn-cifar10
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import torch

from benchmarks.measure import report, start_process
from pipelines.registry.versions import fetch_files, find_version
from pipelines.runtime.errors import ExternalError, run_main
from pipelines.tracking.client import connect

CLIENTS, REQUESTS, MALFORMED = 8, 10_000, 100
JSON = {"Content-Type": "application/json"}
loaded: list[torch.nn.Module] = []  # the exported program of this process


class FloodResult(NamedTuple):
    """Seconds for all requests, correct responses to valid requests, and 4xx responses to malformed requests."""

    seconds: float
    correct: int
    refused: int


@contextmanager
def serve(name: str, version: str) -> Iterator[int]:
    """Run the scoring server while the block runs; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipelines.commands.serve", name, "--version", version, "--port", str(port)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            while True:
                if server.poll() is not None:
                    log.seek(0)
                    raise ExternalError(f"the server exited: {log.read().decode()}")
                try:
                    http.client.HTTPConnection("127.0.0.1", port, timeout=1).request("GET", "/ping")
                    break
                except OSError:
                    time.sleep(0.1)
            yield port
            assert server.poll() is None, "the server exited"
        finally:
            server.terminate()


def make_body(images: np.ndarray) -> bytes:
    return json.dumps({"inputs": images.tolist()}).encode()


def post(connection: http.client.HTTPConnection, content: bytes, headers: dict[str, str] = JSON) -> tuple[int, bytes]:
    connection.request("POST", "/invocations", content, headers)
    response = connection.getresponse()
    return response.status, response.read()


def bad_requests(image: np.ndarray) -> list[tuple[bytes, dict[str, str]]]:
    """Make malformed requests: pairs of body and headers."""
    return [
        (make_body(image[None, :, 1:]), JSON),  # a row is missing
        (make_body(image), JSON),  # no batch dimension
        (make_body(image[None].astype(int) + 300), JSON),  # not uint8
        (b'{"inputs": [[[[1, 2], [3]]]]}', JSON),  # ragged
        (b'{"inputs": [[[["a"]]]]}', JSON),
        (b'{"images": []}', JSON),
        (b'{"inputs": [[', JSON),  # truncated
        (b"\xff\xfe\x00", JSON),
        (make_body(image[None]), {"Content-Type": "text/plain"}),
        (make_body(image[None]), {}),
    ]


def load_bare(path: str) -> None:
    """Load the exported program without MLflow."""
    torch.set_num_threads(os.cpu_count() or 1)
    loaded.append(torch.export.load(path).module())


def measure_forward(images: np.ndarray, calls: int) -> list[float]:
    """Return the seconds of each of ``calls`` forward passes."""
    (network,) = loaded
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        with torch.inference_mode():
            network(torch.from_numpy(images))
        seconds.append(time.perf_counter() - started)
    return seconds


def measure_requests(port: int, images: np.ndarray, calls: int) -> list[float]:
    """Return the seconds of each of ``calls`` requests."""
    connection, content, seconds = http.client.HTTPConnection("127.0.0.1", port), make_body(images), []
    for _ in range(calls):
        started = time.perf_counter()
        status, _ = post(connection, content)
        seconds.append(time.perf_counter() - started)
        assert status == 200
    return seconds


def flood(port: int, images: np.ndarray, expected: dict[str, np.ndarray]) -> FloodResult:
    """Send all requests from all clients; ``expected`` holds the outputs of the model for ``images``."""
    contents = [make_body(image[None]) for image in images]
    bad = bad_requests(images[0])

    def run_client(number: int) -> tuple[int, int]:
        connection, correct, refused = http.client.HTTPConnection("127.0.0.1", port), 0, 0
        for request in range(number, REQUESTS, CLIENTS):
            if request % (REQUESTS // MALFORMED) == 0:
                status, reason = post(connection, *bad[request // (REQUESTS // MALFORMED) % len(bad)])
                refused += 400 <= status < 500 and len(reason) > 0
                continue
            index = request % len(images)
            status, response = post(connection, contents[index])
            outputs = json.loads(response)["predictions"] if status == 200 else {}
            correct += outputs.keys() == expected.keys() and all(
                np.allclose(outputs[key][0], values[index], atol=1e-4) for key, values in expected.items()
            )
        return correct, refused

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        counts = list(pool.map(run_client, range(CLIENTS)))
    correct, refused = (sum(column) for column in zip(*counts, strict=True))
    return FloodResult(time.perf_counter() - started, correct, refused)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stn-cifar10")
    parser.add_argument("--version", default="champion")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    found = find_version(connect(), arguments.model, arguments.version)
    print(f"{found.name} version {found.version}: {found.tags['variant']}")
    metrics: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, start_process() as bare:
        path = fetch_files(found, Path(folder) / "model")
        model = mlflow.pyfunc.load_model(str(path))
        metadata = model.metadata.metadata
        assert metadata is not None
        images = np.random.default_rng(0).integers(0, 256, (200, *metadata["image_shape"]), dtype=np.uint8)
        bare.submit(load_bare, str(next(path.rglob("network.pt2")))).result()
        with serve(arguments.model, str(found.version)) as port:
            measure_requests(port, images[:1], 50)  # warm up
            bare.submit(measure_forward, images[:1], 50).result()
            for _ in range(arguments.repeats):
                for label, seconds in (
                    ("served", measure_requests(port, images[:1], 300)),
                    ("bare forward", bare.submit(measure_forward, images[:1], 300).result()),
                ):
                    metrics[f"{label}, one image, median, ms"].append(1e3 * float(np.median(seconds)))
                    metrics[f"{label}, one image, 99th percentile, ms"].append(1e3 * float(np.quantile(seconds, 0.99)))
                for label, seconds in (
                    ("served", measure_requests(port, images[:64], 30)),
                    ("bare forward", bare.submit(measure_forward, images[:64], 30).result()),
                ):
                    metrics[f"{label}, 64 images, images/s"].append(64 / float(np.median(seconds)))
            result = flood(port, images, model.predict(images))
    valid = REQUESTS - MALFORMED
    print(
        f"{REQUESTS:,} requests from {CLIENTS} clients in {result.seconds:.1f} s: {result.correct:,} of {valid:,} "
        f"valid requests answered correctly, {result.refused} of {MALFORMED} malformed requests refused with 4xx"
    )
    metrics[f"served, one image from {CLIENTS} clients, requests/s"].append(REQUESTS / result.seconds)
    report("serving", dict(metrics))
    if (result.correct, result.refused) != (valid, MALFORMED):
        raise ExternalError("some requests were not answered correctly")


if __name__ == "__main__":
    run_main(main)
