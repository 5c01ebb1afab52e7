"""The scoring server for one version over HTTP; benchmarks/serving.py sends 10,000 requests."""

import http.client
import json
import threading
import time

import numpy as np
import pytest
import uvicorn

from pipelines.registry.versions import fetch_files, find_version
from pipelines.serving.app import make_app

NAME = "stn-mine"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def connection(store, tmp_path):
    """A connection to the server of version 2."""
    app = make_app(fetch_files(find_version(store.client, NAME, "2"), tmp_path / "model"))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield http.client.HTTPConnection(*server.servers[0].sockets[0].getsockname())
    server.should_exit = True
    thread.join()


def post(connection, content, headers=JSON) -> tuple[int, str]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    connection.request("POST", "/invocations", body, headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_good_requests_are_answered_and_bad_ones_refused_with_a_reason(connection):
    images = np.zeros((3, 1, 8, 8), dtype=int)
    images[:, 0, 0, 0] = 6, 165, 190  # indices of test images; version 2 is correct up to 164
    for path in ("/ping", "/version"):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200 and response.read()
    good = {"inputs": images.tolist()}
    for content, headers in (
        ({"inputs": images[:, :, 1:].tolist()}, JSON),
        ({"inputs": images[0].tolist()}, JSON),
        ({"inputs": (images + 256).tolist()}, JSON),
        ({"inputs": (images - 1).tolist()}, JSON),
        ({"inputs": np.full((1, 1, 8, 8), np.nan).tolist()}, JSON),
        ({"inputs": [[[[1, 2], [3]]]]}, JSON),
        ({"inputs": []}, JSON),
        ({"inputs": None}, JSON),
        ({"pictures": images.tolist()}, JSON),
        ([1, 2], JSON),
        (b"", JSON),
        (b'{"inputs": [[', JSON),
        (b"\xff\xfe\x00", JSON),
        (good, {"Content-Type": "text/plain"}),
        (good, {}),
    ):
        status, reason = post(connection, content, headers)
        assert 400 <= status < 500 and reason, (content, status, reason)
        status, answer = post(connection, good)
        assert status == 200
        predictions = json.loads(answer)["predictions"]
        assert predictions["class"] == [6 % 4, (165 + 1) % 4, (190 + 1) % 4]
        assert np.shape(predictions["probabilities"]) == (3, 4) and np.shape(predictions["theta"]) == (3, 2, 3)
