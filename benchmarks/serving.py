"""Claim: `make serve` answers an image in little more time than the bare forward takes, and survives what is malformed.

One image at a time and 64 at once over HTTP, with the bare forward of the same exported program beside them in the same
run; then 10,000 requests of one image from 8 clients, 1 % of them malformed, each answer checked.

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from benchmarks.measure import report, side
from pipelines.registry.versions import fetch_files, find_version
from pipelines.runtime.errors import ExternalError, run
from pipelines.tracking.client import connect

CLIENTS, REQUESTS, MALFORMED = 8, 10_000, 100
JSON = {"Content-Type": "application/json"}
sides: dict[str, Any] = {}


@contextmanager
def served(name: str, version: str):
    """The scoring server for as long as the block runs; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipelines.commands.serve", name, "--version", version, "--port", str(port)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            while True:
                if server.poll() is not None:
                    log.seek(0)
                    raise ExternalError(f"the server has ended: {log.read().decode()}")
                try:
                    http.client.HTTPConnection("127.0.0.1", port, timeout=1).request("GET", "/ping")
                    break
                except OSError:
                    time.sleep(0.1)
            yield port
            assert server.poll() is None, "the server has died"
        finally:
            server.terminate()


def body(images: np.ndarray) -> bytes:
    return json.dumps({"inputs": images.tolist()}).encode()


def post(connection: http.client.HTTPConnection, content: bytes, headers: dict[str, str] = JSON) -> tuple[int, bytes]:
    connection.request("POST", "/invocations", content, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def bad_requests(image: np.ndarray) -> list[tuple[bytes, dict[str, str]]]:
    """Requests that no client should send: (body, headers) each."""
    return [
        (body(image[None, :, 1:]), JSON),  # a row is missing
        (body(image), JSON),  # no batch
        (body(image[None].astype(int) + 300), JSON),  # no uint8
        (b'{"inputs": [[[[1, 2], [3]]]]}', JSON),  # ragged
        (b'{"inputs": [[[["a"]]]]}', JSON),
        (b'{"images": []}', JSON),
        (b'{"inputs": [[', JSON),  # cut off
        (b"\xff\xfe\x00", JSON),
        (body(image[None]), {"Content-Type": "text/plain"}),
        (body(image[None]), {}),
    ]


def load_bare(path: str) -> None:
    """The exported program without MLflow around it, in this process."""
    torch.set_num_threads(os.cpu_count() or 1)
    sides["network"] = torch.export.load(path).module()


def forward_seconds(images: np.ndarray, calls: int) -> list[float]:
    taken = []
    for _ in range(calls):
        started = time.perf_counter()
        with torch.inference_mode():
            sides["network"](torch.from_numpy(images))
        taken.append(time.perf_counter() - started)
    return taken


def post_seconds(port: int, images: np.ndarray, calls: int) -> list[float]:
    connection, content, taken = http.client.HTTPConnection("127.0.0.1", port), body(images), []
    for _ in range(calls):
        started = time.perf_counter()
        status, _ = post(connection, content)
        taken.append(time.perf_counter() - started)
        assert status == 200
    return taken


def flood(port: int, images: np.ndarray, expected: dict[str, np.ndarray]) -> tuple[float, int, int]:
    """Send all requests from all clients; seconds it took, good requests answered rightly, malformed ones by 4xx."""
    contents = [body(image[None]) for image in images]
    bad = bad_requests(images[0])

    def client(number: int) -> tuple[int, int]:
        connection, right, refused = http.client.HTTPConnection("127.0.0.1", port), 0, 0
        for request in range(number, REQUESTS, CLIENTS):
            if request % (REQUESTS // MALFORMED) == 0:
                status, reason = post(connection, *bad[request // (REQUESTS // MALFORMED) % len(bad)])
                refused += 400 <= status < 500 and len(reason) > 0
                continue
            place = request % len(images)
            status, answer = post(connection, contents[place])
            said = json.loads(answer)["predictions"] if status == 200 else {}
            right += said.keys() == expected.keys() and all(
                np.allclose(said[key][0], values[place], atol=1e-4) for key, values in expected.items()
            )
        return right, refused

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        counts = list(pool.map(client, range(CLIENTS)))
    return time.perf_counter() - started, sum(right for right, _ in counts), sum(refused for _, refused in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stn-cifar10")
    parser.add_argument("--version", default="champion")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    found = find_version(connect(), arguments.model, arguments.version)
    print(f"{found.name} version {found.version}: {found.tags['variant']}")
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, side() as bare:
        path = fetch_files(found, Path(folder) / "model")
        model = mlflow.pyfunc.load_model(str(path))
        about = model.metadata.metadata
        assert about is not None
        images = np.random.default_rng(0).integers(0, 256, (200, *about["image_shape"]), dtype=np.uint8)
        bare.submit(load_bare, str(next(path.rglob("network.pt2")))).result()
        with served(arguments.model, str(found.version)) as port:
            post_seconds(port, images[:1], 50)
            bare.submit(forward_seconds, images[:1], 50).result()
            for _ in range(arguments.repeats):
                sides_of_one = {
                    "served": post_seconds(port, images[:1], 300),
                    "bare forward": bare.submit(forward_seconds, images[:1], 300).result(),
                }
                for label, taken in sides_of_one.items():
                    figures[f"{label}, one image, median ms"].append(1e3 * float(np.median(taken)))
                    figures[f"{label}, one image, 99th percentile ms"].append(1e3 * float(np.quantile(taken, 0.99)))
                sides_of_64 = {
                    "served": post_seconds(port, images[:64], 30),
                    "bare forward": bare.submit(forward_seconds, images[:64], 30).result(),
                }
                for label, taken in sides_of_64.items():
                    figures[f"{label}, 64 images, images a second"].append(64 / float(np.median(taken)))
            seconds, right, refused = flood(port, images, model.predict(images))
    print(
        f"{REQUESTS:,} requests from {CLIENTS} clients in {seconds:.1f} s: {right:,} of {REQUESTS - MALFORMED:,} good "
        f"ones answered rightly, {refused} of {MALFORMED} malformed ones answered by 4xx"
    )
    figures[f"served, one image from {CLIENTS} clients, requests a second"].append(REQUESTS / seconds)
    report("serving", dict(figures))
    if (right, refused) != (REQUESTS - MALFORMED, MALFORMED):
        raise ExternalError("not every request was answered as it should be")


if __name__ == "__main__":
    run(main)
