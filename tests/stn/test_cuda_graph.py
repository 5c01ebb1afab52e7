"""A capture that fails says why, and leaves its stream.

Streams and graphs are stand-ins. The tests marked gpu in test_captured_step.py capture on a GPU.
"""

from contextlib import contextmanager

import pytest
import torch

from stn.cuda_graph import capture_function


class Stream:
    def wait_stream(self, _) -> None:
        pass


class Device:
    """Stands in for torch.cuda. As there, the end of a failed capture raises, and its stream stays the current one."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.current = self.main = Stream()
        for name, value in {
            "Stream": Stream, "CUDAGraph": lambda: None, "current_stream": lambda: self.current,
            "stream": self.stream, "graph": self.graph,
        }.items():  # fmt: skip
            patch.setattr(torch.cuda, name, value)

    @contextmanager
    def stream(self, stream: Stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, _, stream: Stream):
        self.current = stream
        try:
            yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904


def test_a_failed_capture_says_why_and_leaves_the_current_stream(monkeypatch):
    device, calls = Device(monkeypatch), []

    def run() -> None:
        calls.append(device.current)
        if len(calls) == 2:
            raise RuntimeError("a number was read")

    with pytest.raises(RuntimeError, match="a number was read"):
        capture_function(run)
    assert device.current is device.main
    assert calls[0] is calls[1] is not device.main, "it ran before, on the stream of the capture"
