"""The gate of the server: it checks the token of each request, and bounds its size, its time and the queue."""

import asyncio
import hmac
import json
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.limits import Limits

OPEN_PATHS = ("/", "/ping", "/health", "/version")  # they reveal nothing about the model
RETRY_AFTER_S = 1


class _Refused(Exception):
    """The request is answered with this status and reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Gate:
    """ASGI middleware in front of the application. It receives the body of a request before the application runs.

    Args:
        app: the application.
        limits: limits of each request and of the queue.
        token: every request except GET of :data:`OPEN_PATHS` must have the header ``Authorization: Bearer <token>``.
            None: no token is needed.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None = None):
        self.app, self.limits = app, limits
        self.wanted = None if token is None else f"Bearer {token}".encode()
        self.requests = self.bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check_token(scope)
            if scope["method"] in ("GET", "HEAD"):
                await self.app(scope, receive, send)
            else:
                await self._admit(scope, receive, send_and_note)
        except _Refused as refused:
            if not started:
                await _answer(send, refused.status, str(refused))

    def _check_token(self, scope: Scope) -> None:
        """Compare the token in constant time."""
        if self.wanted is None or (scope["method"] == "GET" and scope["path"] in OPEN_PATHS):
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self.wanted):
            raise _Refused(401, "Authorization: Bearer <token> is required, with the server's SERVE_TOKEN")

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive the body and run the application, if the queue has room for the request."""
        if self.requests >= self.limits.queue:
            raise _Refused(503, f"{self.limits.queue} requests are waiting; try again later")
        self.requests += 1
        chunks: list[bytes] = []
        try:
            await self._within_time(self._receive_body(scope, receive, chunks), 408, "receive")
            body = b"".join(chunks)
            await self._within_time(self.app(scope, replay(body, receive), send), 504, "answer")
        finally:
            self.requests -= 1
            self.bytes -= sum(map(len, chunks))

    async def _receive_body(self, scope: Scope, receive: Receive, chunks: list[bytes]) -> None:
        """Append the body to ``chunks``. A body whose declared size is too large is refused before it is read."""
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        size, received, more = int(declared) if declared.isdigit() else 0, 0, True
        self._check_size(size, size)
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Refused(400, "the client closed the connection")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            chunks.append(chunk)
            received += len(chunk)
            self.bytes += len(chunk)
            self._check_size(received, 0)

    def _check_size(self, size: int, expected: int) -> None:
        """Check the size of a body, and the bytes of all bodies with those that are still expected."""
        if size > self.limits.request_bytes:
            raise _Refused(413, f"the request has more than {self.limits.request_bytes:,} bytes")
        if self.bytes + expected > self.limits.queue_bytes:
            raise _Refused(503, f"requests with {self.limits.queue_bytes:,} bytes are waiting; try again later")

    async def _within_time(self, work: Awaitable[None], status: int, what: str) -> None:
        try:
            async with asyncio.timeout(self.limits.seconds):
                await work
        except TimeoutError:
            raise _Refused(status, f"it took more than {self.limits.seconds:g} s to {what} the request") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the whole body, and then waits for the end of the connection."""
    done = False

    async def receive_again() -> Message:
        nonlocal done
        if done:
            return await receive()
        done = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _answer(send: Send, status: int, reason: str) -> None:
    """Send an error in the form of all errors of the server."""
    headers = [(b"content-type", b"application/json")]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413, 503):  # the rest of the body is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": reason}).encode()})
