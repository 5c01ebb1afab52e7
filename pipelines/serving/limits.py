"""Limits of the server: what one request may take, and how much work may wait."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits on each request, and on all requests together.

    Args:
        request_bytes: bytes in the body of a request.
        pixels: pixels of all images of a request, as their files declare them.
        images: images in a request.
        seconds: time to receive the body of a request, and again to answer it; GET has no limit.
        queue: requests that are received or answered at the same time; more are refused with 503.
        queue_bytes: bytes in the bodies of these requests; more are refused with 503.
    """

    request_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    images: int = 64
    seconds: float = 30.0
    queue: int = 256
    queue_bytes: int = 256 * 2**20
