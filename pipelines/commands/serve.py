"""serve: a version of a registered model over HTTP, by MLflow's own scoring server, on 127.0.0.1.

    python -m pipelines.commands.serve stn-cifar10 --port 5001

POST /invocations takes ``{"inputs": [[[[…]]]]}``, pixels 0 to 255 as (B, C, H, W), and answers class, probabilities
and θ; GET /ping and /version say that it lives. A champion that moves later is served after a restart.
"""

import argparse
import socket
import tempfile
from pathlib import Path

from pipelines.runtime.errors import UserError, run
from pipelines.serving.app import make_app

HOST = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.serve", description="Serve a version of a registered model on 127.0.0.1."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="its number or an alias; champion if left out")
    parser.add_argument("--port", type=int, default=5001)
    arguments = parser.parse_args()
    if not 0 < arguments.port < 65536:
        raise UserError(f"PORT: {arguments.port} given; 1 to 65535 are allowed")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            probe.bind((HOST, arguments.port))
        except OSError as error:
            raise UserError(f"PORT: {arguments.port} given; it cannot be listened on ({error.strerror})") from None

    import uvicorn  # and all that takes seconds to import, once the arguments are known to be right

    from pipelines.registry.versions import fetch_files, find_version
    from pipelines.tracking.client import connect, store_errors_explained

    with store_errors_explained("nothing was changed"):
        found = find_version(connect(), arguments.model, arguments.version)
    with tempfile.TemporaryDirectory() as folder:
        app = make_app(fetch_files(found, Path(folder) / "model"))
        address = f"http://{HOST}:{arguments.port}/invocations"
        print(f"{found.name}, version {found.version} ({found.tags['variant']}): {address}", flush=True)
        uvicorn.run(app, host=HOST, port=arguments.port)


if __name__ == "__main__":
    run(main)
