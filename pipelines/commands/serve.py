"""serve: serve a version of a registered model over HTTP on 127.0.0.1, with MLflow's scoring server.

    python -m pipelines.commands.serve stn-cifar10 --port 5001

POST /invocations takes ``{"inputs": images}`` with pixels from 0 to 255 in shape (B, C, H, W), and answers with class,
probabilities and θ. GET /ping and GET /version report that the server is alive. If the champion changes, it is served
after a restart.
"""

import argparse
import socket
import tempfile
from pathlib import Path

from pipelines.runtime.errors import UserError, run_main

HOST = "127.0.0.1"


def check_port(port: int) -> None:
    """Check that the server can listen on ``port``.

    Raises:
        UserError: the port is out of range or in use.
    """
    if not 0 < port < 65536:
        raise UserError(f"PORT: {port} given; 1 to 65535 are allowed")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like the server
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"PORT: {port} given; it cannot be listened on ({error.strerror})") from None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.serve", description="Serve a version of a registered model on 127.0.0.1."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="number or alias of the version; default: champion")
    parser.add_argument("--port", type=int, default=5001, help="port to listen on; default: 5001")
    arguments = parser.parse_args()
    check_port(arguments.port)

    import uvicorn

    from pipelines.registry.versions import fetch_files, find_version
    from pipelines.serving.app import make_app
    from pipelines.tracking.client import connect, store_errors_explained

    with store_errors_explained("nothing was changed"):
        version = find_version(connect(), arguments.model, arguments.version)
    with tempfile.TemporaryDirectory() as folder:
        app = make_app(fetch_files(version, Path(folder) / "model"))
        address = f"http://{HOST}:{arguments.port}/invocations"
        print(f"{version.name}, version {version.version} ({version.tags['variant']}): {address}", flush=True)
        uvicorn.run(app, host=HOST, port=arguments.port)


if __name__ == "__main__":
    run_main(main)
