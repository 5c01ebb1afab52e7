"""The gate: sizes, times, the queue and the token, with an application that waits as long as a test wants."""

import asyncio
import json

import pytest

from pipelines.serving.gate import Gate
from pipelines.serving.limits import Limits

TOKEN = "a-secret-of-some-length"
LIMITS = Limits(request_bytes=100, seconds=0.2, queue=3, queue_bytes=250)


class Application:
    """Counts requests and answers with the size of their bodies, after ``wait`` is set."""

    def __init__(self):
        self.wait, self.bodies = asyncio.Event(), []

    async def __call__(self, scope, receive, send):
        body = (await receive())["body"]
        await self.wait.wait()
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})


async def request(gate, *chunks: bytes, stops: bool = False, path="/predict", method="POST", **headers: str):
    """Send a request in chunks; returns status, headers and body. With ``stops``, the last chunk never comes."""
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": named}
    waiting, sent = list(chunks) or [b""], []

    async def receive():
        if not waiting:
            await asyncio.Event().wait()
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting) or stops}

    async def send(message):
        sent.append(message)

    await gate(scope, receive, send)
    start, end = sent
    return start["status"], dict(start["headers"]), end["body"]


def run(test, limits: Limits = LIMITS, token: str | None = None):
    async def call():
        application = Application()
        gate = Gate(application, limits, token)
        await test(gate, application)
        assert (gate.requests, gate.bytes) == (0, 0), "the gate counts a request that has ended"

    asyncio.run(call())


def test_the_application_gets_the_whole_body():
    async def test(gate, application):
        application.wait.set()
        assert await request(gate, b"a" * 60, b"b" * 40) == (200, {}, b"100")
        assert application.bodies == [b"a" * 60 + b"b" * 40]

    run(test)


@pytest.mark.parametrize("headers", [{}, {"content_length": "101"}, {"content_length": "3"}, {"content_length": "x"}])
def test_a_body_that_is_too_large_is_refused(headers):
    """Also if it does not say so."""

    async def test(gate, application):
        status, found, body = await request(gate, *[b"a" * 20] * 6, **headers)
        assert status == 413 and found[b"connection"] == b"close" and "100 bytes" in json.loads(body)["detail"]
        assert application.bodies == []

    run(test)


def test_a_declared_size_is_refused_before_the_body_is_read():
    async def test(gate, application):
        status, _, _ = await request(gate, b"", stops=True, content_length="101")
        assert status == 413

    run(test)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def test(gate, application):
        first = [asyncio.create_task(request(gate, b"a")) for _ in range(3)]
        await asyncio.sleep(0)
        status, headers, body = await request(gate, b"a")
        assert status == 503 and headers[b"retry-after"] == b"1" and "3 requests" in json.loads(body)["detail"]
        application.wait.set()
        assert [status for status, _, _ in await asyncio.gather(*first)] == [200] * 3
        assert (await request(gate, b"a"))[0] == 200

    run(test)


def test_the_bytes_of_all_requests_are_bounded():
    async def test(gate, application):
        first = [asyncio.create_task(request(gate, b"a" * 100)) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await request(gate, b"a" * 60))[0] == 503
        assert (await request(gate, content_length="60"))[0] == 503
        application.wait.set()
        await asyncio.gather(*first)
        assert (await request(gate, b"a" * 60))[0] == 200

    run(test)


def test_a_client_that_stops_sending_is_refused():
    async def test(gate, application):
        status, _, body = await request(gate, b"a", stops=True)
        assert status == 408 and "0.2 s to receive" in json.loads(body)["detail"]

    run(test)


def test_an_answer_that_takes_too_long_is_given_up():
    async def test(gate, application):
        status, _, body = await request(gate, b"a")
        assert status == 504 and "0.2 s to answer" in json.loads(body)["detail"]

    run(test)


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer "}, {"authorization": f"Bearer {TOKEN}x"}])
def test_a_wrong_token_is_refused_before_the_body_is_read(given):
    async def test(gate, application):
        status, headers, _ = await request(gate, b"", stops=True, **given)
        assert status == 401 and headers[b"www-authenticate"] == b"Bearer"

    run(test, token=TOKEN)


def test_the_right_token_is_accepted():
    async def test(gate, application):
        application.wait.set()
        assert (await request(gate, b"a", authorization=f"Bearer {TOKEN}"))[0] == 200
        assert (await request(gate, b"", path="/", method="GET"))[0] == 200

    run(test, token=TOKEN)
