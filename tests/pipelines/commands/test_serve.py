"""serve: errors in its arguments."""

import socket
import sys

import pytest

from pipelines.commands import serve
from pipelines.runtime.errors import UserError

NAME = "stn-mine"


def refused(monkeypatch, *arguments: str) -> str:
    """The message of the UserError that ends the command."""
    monkeypatch.delenv("SERVE_TOKEN", raising=False)
    monkeypatch.setattr(sys, "argv", ["serve", NAME, *arguments])
    with pytest.raises(UserError) as error:
        serve.main()
    return str(error.value)


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_out_of_range_is_refused(monkeypatch, port):
    assert refused(monkeypatch, f"--port={port}").startswith(f"PORT: {port} given; 1 to 65535")


def test_a_port_in_use_is_refused(monkeypatch):
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refused(monkeypatch, f"--port={port}").startswith(f"PORT: {port} given; it cannot be listened on")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_address_for_other_machines_needs_a_token(monkeypatch, host):
    message = refused(monkeypatch, f"--host={host}")
    assert message.startswith(f"HOST: {host!r} given; ") and "SERVE_TOKEN" in message


def test_with_a_token_an_address_for_other_machines_is_accepted(monkeypatch):
    monkeypatch.setenv("SERVE_TOKEN", "a-secret-of-some-length")
    with socket.socket() as free:
        free.bind((serve.HOST, 0))
        port = free.getsockname()[1]
    serve.check_address("0.0.0.0", port)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost"])
def test_this_machine_needs_no_token(monkeypatch, host):
    monkeypatch.delenv("SERVE_TOKEN", raising=False)
    with socket.socket() as free:
        free.bind((serve.HOST, 0))
        port = free.getsockname()[1]
    serve.check_address(host, port)


@pytest.mark.parametrize("origin", ["*", "example.com", "https://example.com/", "https://a.example https://*.example"])
def test_an_origin_that_is_no_address_is_refused(monkeypatch, origin):
    assert refused(monkeypatch, f"--cors={origin}").startswith(f"CORS: {origin.split()[-1]!r} given; ")


def test_origins_are_separated_by_commas_or_spaces():
    assert serve.split_origins(" https://a.example:8443, http://localhost:3000 ") == [
        "https://a.example:8443", "http://localhost:3000",
    ]  # fmt: skip
    assert serve.split_origins(" ") == []


@pytest.mark.parametrize("seconds", ["-1", "0.5", "nan", "inf"])
def test_an_interval_out_of_range_is_refused(monkeypatch, seconds):
    assert refused(monkeypatch, f"--reload={seconds}").startswith(f"RELOAD: {float(seconds):g} given; ")
