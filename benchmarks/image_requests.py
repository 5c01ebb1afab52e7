"""Claim: image files are answered three times as fast as pixels in JSON, in flat memory, also while the champion moves.

    python -m benchmarks.image_requests                    latency, and images/s of 1, 8 and 64 clients
    python -m benchmarks.image_requests --load 600         memory over ten minutes of load
    python -m benchmarks.image_requests --moves            10,000 requests while the champion moves twice

The model is an untrained network for CIFAR-10 in a registry of its own. The clients run in a process of their own on
the same cores as the server.
"""

import argparse
import http.client
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.measure import report, start_process
from benchmarks.untrained_models import CLASSES, NAME, SHAPE, make_network, registry
from pipelines.runtime.errors import ExternalError, run_main
from pipelines.tracking.client import connect

REQUESTS, MALFORMED = 10_000, 100
JSON = {"Content-Type": "application/json"}


class Request(NamedTuple):
    """A request and its headers."""

    path: str
    body: bytes
    headers: dict[str, str]


class Sent(NamedTuple):
    """Answers to requests that several clients sent, in the order of the requests."""

    seconds: float
    each: list[float]
    statuses: list[int]
    bodies: list[bytes]


@contextmanager
def serve(*options: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run the server while the block runs; yields its port and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipelines.commands.serve", NAME, "--port", str(port), *options]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            while server.poll() is None:
                try:
                    http.client.HTTPConnection("127.0.0.1", port, timeout=1).request("GET", "/ping")
                    break
                except OSError:
                    time.sleep(0.1)
            yield port, psutil.Process(server.pid)
            if server.poll() is not None:
                log.seek(0)
                raise ExternalError(f"the server exited: {log.read().decode()}")
        finally:
            server.terminate()


def images(count: int) -> np.ndarray:
    """Return random images, uint8 (count, C, H, W)."""
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def as_file(pixels: np.ndarray) -> Request:
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return Request("/predict", buffer.getvalue(), {"Content-Type": "image/png"})


def as_json(pixels: np.ndarray) -> Request:
    return Request("/invocations", json.dumps({"inputs": pixels[None].tolist()}).encode(), JSON)


def send_all(port: int, requests: Sequence[Request], clients: int) -> Sent:
    """Send each request once; each client has one connection and waits for each answer."""
    answers: list[tuple[float, int, bytes]] = [(0.0, 0, b"")] * len(requests)

    def run_client(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for i in range(first, len(requests), clients):
            started = time.perf_counter()
            connection.request("POST", *requests[i])
            response = connection.getresponse()
            body = response.read()
            answers[i] = (time.perf_counter() - started, response.status, body)

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run_client, range(clients)))
    seconds = time.perf_counter() - started
    return Sent(seconds, *map(list, zip(*answers, strict=True)))


def measure_speed(repeats: int) -> None:
    """Measure latency and throughput of files and of JSON, in turns, with the bare forward pass beside them."""
    pixels = images(200)
    kinds = {"files": [as_file(image) for image in pixels], "JSON": [as_json(image) for image in pixels]}
    metrics: dict[str, list[float]] = defaultdict(list)
    network = make_network(0)
    with serve() as (port, _), start_process() as client:
        for requests in kinds.values():
            client.submit(send_all, port, requests, 8).result()
        for _ in range(repeats):
            each = []
            for image in pixels:
                started = time.perf_counter()
                with torch.inference_mode():
                    network(torch.from_numpy(image[None]))
                each.append(time.perf_counter() - started)
            metrics["bare forward, one image, median, ms"].append(1e3 * float(np.median(each)))
            for clients in (1, 8, 64):
                for kind, requests in kinds.items():
                    sent = client.submit(send_all, port, requests * (1 if clients == 1 else 10), clients).result()
                    assert set(sent.statuses) == {200}, sent
                    if clients == 1:
                        metrics[f"{kind}, one image, median, ms"].append(1e3 * float(np.median(sent.each)))
                        metrics[f"{kind}, one image, 99th percentile, ms"].append(
                            1e3 * float(np.quantile(sent.each, 0.99))
                        )
                    metrics[f"{kind}, {clients} clients, images/s"].append(len(sent.each) / sent.seconds)
            files, as_pixels = (metrics[f"{kind}, 64 clients, images/s"][-1] for kind in kinds)
            metrics["files / JSON, 64 clients, times"].append(files / as_pixels)
    report("image_requests", dict(metrics))


def measure_memory(seconds: float) -> None:
    """Print the memory of the server while 8 clients send files."""
    requests = [as_file(image) for image in images(200)]
    with serve("--reload", "60") as (port, server), start_process() as client:
        started, sent = time.monotonic(), 0
        client.submit(send_all, port, requests * 5, 8).result()
        print(f"after {len(requests) * 5:,} images: RSS {server.memory_info().rss / 2**20:.0f} MiB", flush=True)
        while (passed := time.monotonic() - started) < seconds:
            sent += len(client.submit(send_all, port, requests * 25, 8).result().each)
            print(f"{passed:.0f} s: {sent:,} images, RSS {server.memory_info().rss / 2**20:.1f} MiB", flush=True)


def served_version(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/model")
    return json.loads(connection.getresponse().read())["number"]


def measure_moves() -> None:
    """Send requests while the champion moves twice; every answer must be that of the version that it names."""
    pixels = images(200)
    expected = {}
    for number, seed in (("1", 0), ("2", 1)):
        with torch.inference_mode():
            expected[number] = make_network(seed)(torch.from_numpy(pixels))["probabilities"].numpy()
    requests = [as_file(pixels[i % len(pixels)]) for i in range(REQUESTS)]
    bad = [b"", b"hello", requests[0].body[:200], b"\x89PNG\r\n\x1a\n"]
    for i in range(0, REQUESTS, REQUESTS // MALFORMED):
        requests[i] = requests[i]._replace(body=bad[i // MALFORMED % len(bad)])
    store = connect()
    with serve("--reload", "1") as (port, _), start_process() as client:
        client.submit(send_all, port, requests[1:9], 8).result()  # the process has started
        flood = client.submit(send_all, port, requests, 8)
        for version in ("2", "1"):
            time.sleep(2)
            store.set_registered_model_alias(NAME, "champion", version)
            while served_version(port) != version:
                assert not flood.done(), "the requests ended before the champion moved twice"
                time.sleep(0.2)
        sent = flood.result()
    by_version, refused, wrong = Counter(), 0, 0
    for i, (status, body) in enumerate(zip(sent.statuses, sent.bodies, strict=True)):
        if i % (REQUESTS // MALFORMED) == 0:
            refused += status == 400
            continue
        answer: dict[str, Any] = json.loads(body) if status == 200 else {"version": "none"}
        by_version[answer["version"]] += 1
        if status == 200:
            (prediction,) = answer["predictions"]
            given = [prediction["probabilities"][name] for name in CLASSES]
            wrong += not np.allclose(given, expected[answer["version"]][i % len(pixels)], atol=1e-5)
    print(
        f"{REQUESTS:,} requests in {sent.seconds:.0f} s: answered by version {dict(by_version)}, {wrong} wrongly; "
        f"{refused} of {MALFORMED} malformed ones refused with 400"
    )
    if wrong or refused != MALFORMED or by_version.keys() != {"1", "2"}:
        raise ExternalError("some requests were not answered correctly")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load", type=float, metavar="S", help="measure the memory over S seconds of load")
    parser.add_argument("--moves", action="store_true", help="send requests while the champion moves twice")
    arguments = parser.parse_args()
    with registry(2):
        if arguments.load:
            measure_memory(arguments.load)
        elif arguments.moves:
            measure_moves()
        else:
            measure_speed(arguments.repeats)


if __name__ == "__main__":
    run_main(main)
