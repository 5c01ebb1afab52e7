"""serve: serve a version of a registered model over HTTP, with a page that shows what its transformer does.

    python -m pipelines.commands.serve stn-cifar10 --port 5001 --reload 60

GET / is the page. POST /predict takes image files. POST /invocations, GET /ping and GET /version are those of MLflow's
scoring server. docs/serving.md describes the requests.
"""

import argparse
import ipaddress
import re
import socket

from pipelines.runtime import environment
from pipelines.runtime.errors import UserError, run_main

HOST = "127.0.0.1"
ORIGIN = r"https?://[\w.-]+(:\d+)?|https?://\[[\da-fA-F:]+\](:\d+)?"


def check_address(host: str, port: int) -> None:
    """Check that the server can listen on ``port`` of ``host``, and that an address for other machines has a token.

    Raises:
        UserError: it cannot, or there is no token.
    """
    if not 0 < port < 65536:
        raise UserError(f"PORT: {port} given; 1 to 65535 are allowed")
    if not _is_loopback(host) and not environment.get("SERVE_TOKEN"):
        raise UserError(
            f"HOST: {host!r} given; other machines could use the server: set SERVE_TOKEN in .env to a secret of at "
            "least 16 characters, which each request must have, or use 127.0.0.1"
        )
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"HOST: {host!r} given; no address of this machine ({error})") from None
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like the server
        try:
            probe.bind(address)
        except OSError as error:
            raise UserError(f"PORT: {port} given; it cannot be listened on ({error.strerror})") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_origins(text: str) -> list[str]:
    """Split the origins of web pages, separated by commas or spaces.

    Raises:
        UserError: one is not the address of a web server.
    """
    origins = re.split(r"[\s,]+", text.strip()) if text.strip() else []
    for origin in origins:
        if not re.fullmatch(ORIGIN, origin):
            raise UserError(
                f"CORS: {origin!r} given; expected origins such as https://example.com, separated by commas"
            )
    return origins


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.serve",
        description="Serve a version of a registered model over HTTP, with a page that shows what it does.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="number or alias of the version; default: champion")
    parser.add_argument("--port", type=int, default=5001, help="port to listen on; default: 5001")
    parser.add_argument(
        "--host", default=HOST, help=f"address to listen on; default: {HOST}; others need SERVE_TOKEN in .env"
    )
    parser.add_argument(
        "--reload", type=float, default=0, metavar="S",
        help="look every S seconds for an alias that moved, and take the new version over; default: never",
    )  # fmt: skip
    parser.add_argument("--cors", default="", help="origins of web pages that may use the server; default: none")
    arguments = parser.parse_args()
    check_address(arguments.host, arguments.port)
    origins = split_origins(arguments.cors)
    if not (arguments.reload == 0 or 1 <= arguments.reload <= 86400):  # NaN as well
        raise UserError(f"RELOAD: {arguments.reload:g} given; 0 (never) or 1 to 86400 seconds are allowed")

    import uvicorn

    from pipelines.serving.app import LOOPBACK_HOSTS, ServerOptions, make_app
    from pipelines.serving.deployment import Deployment
    from pipelines.tracking.client import connect, store_errors_explained
    from pipelines.tracking.store_requests import short_timeouts

    with store_errors_explained("nothing was changed"):
        deployment = Deployment(connect(), arguments.model, arguments.version)
    token = environment.get("SERVE_TOKEN")
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    hosts = ["*"] if token else [*LOOPBACK_HOSTS, host]
    app = make_app(deployment, ServerOptions(token=token, hosts=hosts, origins=origins, reload_s=arguments.reload))
    needed = "; requests need the header Authorization: Bearer <SERVE_TOKEN>" if token else ""
    print(f"{deployment.default.version}: http://{host}:{arguments.port}/{needed}", flush=True)
    with short_timeouts():
        uvicorn.run(app, host=arguments.host, port=arguments.port, access_log=False)


if __name__ == "__main__":
    run_main(main)
