"""serve: what is wrong with its arguments, and one version over HTTP; 10,000 requests are benchmarks/serving.py's."""

import http.client
import json
import socket
import sys
import threading
import time

import numpy as np
import pytest
import uvicorn

from pipelines.commands import serve
from pipelines.registry.versions import fetch_files, find_version
from pipelines.runtime.errors import UserError

NAME = "stn-mine"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_that_is_none(monkeypatch, port):
    monkeypatch.setattr(sys, "argv", ["serve", NAME, f"--port={port}"])
    with pytest.raises(UserError, match=f"PORT: {port} given; 1 to 65535"):
        serve.main()


def test_a_port_that_is_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["serve", NAME, f"--port={port}"])
        with pytest.raises(UserError, match=f"PORT: {port} given; it cannot be listened on"):
            serve.main()


@pytest.fixture
def connection(store, tmp_path):
    """A connection to the server of version 2."""
    app = serve.make_app(fetch_files(find_version(store.client, NAME, "2"), tmp_path / "model"))
    server = uvicorn.Server(uvicorn.Config(app, host=serve.HOST, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield http.client.HTTPConnection(*server.servers[0].sockets[0].getsockname())
    server.should_exit = True
    thread.join()


def ask(connection, content, headers=JSON) -> tuple[int, str]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    connection.request("POST", "/invocations", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_good_requests_are_answered_and_bad_ones_refused_with_a_reason(connection):
    images = np.zeros((3, 1, 8, 8), dtype=int)
    images[:, 0, 0, 0] = 6, 165, 190  # the first pixel numbers a test image; version 2 is right up to 164
    for path in ("/ping", "/version"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
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
        status, reason = ask(connection, content, headers)
        assert 400 <= status < 500 and reason, (content, status, reason)
        status, answer = ask(connection, good)
        assert status == 200
        said = json.loads(answer)["predictions"]
        assert said["class"] == [6 % 4, (165 + 1) % 4, (190 + 1) % 4]
        assert np.shape(said["probabilities"]) == (3, 4) and np.shape(said["theta"]) == (3, 2, 3)
