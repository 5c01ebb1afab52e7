"""serve: errors in its arguments."""

import socket
import sys

import pytest

from pipelines.commands import serve
from pipelines.runtime.errors import UserError

NAME = "stn-mine"


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_out_of_range_is_refused(monkeypatch, port):
    monkeypatch.setattr(sys, "argv", ["serve", NAME, f"--port={port}"])
    with pytest.raises(UserError, match=f"PORT: {port} given; 1 to 65535"):
        serve.main()


def test_a_port_in_use_is_refused(monkeypatch):
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["serve", NAME, f"--port={port}"])
        with pytest.raises(UserError, match=f"PORT: {port} given; it cannot be listened on"):
            serve.main()
