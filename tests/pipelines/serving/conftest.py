"""A server for tests, on a free port of this machine."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import uvicorn

from pipelines.serving.app import ServerOptions, make_app
from pipelines.serving.deployment import Deployment

NAME = "stn-mine"


class Answer(NamedTuple):
    """Status, headers in lower case, and body of a response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Sends requests over one connection."""

    def __init__(self, address: tuple[str, int], deployment: Deployment, stop: Callable[[], None]):
        self.address, self.deployment, self.stop = address, deployment, stop
        self.connection = http.client.HTTPConnection(*address)

    def __call__(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request; ``content_type="image/png"`` is the header Content-Type."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named)
        response = self.connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())


@pytest.fixture
def serve(store) -> Iterator[Callable[..., Client]]:
    """Starts a server of a version: ``serve("champion", token="…")``; it ends with the test."""
    running = []

    def start(wanted: str = "champion", **options) -> Client:
        deployment = Deployment(store.client, NAME, wanted)
        app = make_app(deployment, ServerOptions(**options))
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)

        def stop() -> None:
            server.should_exit = True
            thread.join()

        running.append(stop)
        return Client(server.servers[0].sockets[0].getsockname(), deployment, stop)

    yield start
    for stop in running:
        stop()
