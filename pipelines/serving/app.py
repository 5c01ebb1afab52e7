"""The server as an ASGI application: image files, MLflow's scoring server, and the page."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, NamedTuple

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from mlflow.exceptions import MlflowException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pipelines.runtime.cores import usable_cores
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.serving.deployment import Deployed, Deployment
from pipelines.serving.gate import Gate, replay
from pipelines.serving.image_column import scoring_server_for_files
from pipelines.serving.limits import Limits
from pipelines.serving.loaded_version import describe
from pipelines.serving.page import make_page
from pipelines.serving.pictures import encode_rectified
from pipelines.serving.requests import IMAGE_FILE, decode_files, read_image_files
from pipelines.tracking.store_requests import describe_store_error

LOG = logging.getLogger("uvicorn.error")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
SCORING_SERVER = {"/invocations": "POST", "/ping": "GET", "/health": "GET", "/version": "GET"}  # MLflow's routes
FORM = {
    "schema": {
        "type": "object", "required": ["image"],
        "properties": {"image": {"type": "array", "minItems": 1, "items": IMAGE_FILE["schema"]}},
    }
}  # fmt: skip
IMAGE_BODY = {
    "requestBody": {"required": True, "content": {"application/octet-stream": IMAGE_FILE, "multipart/form-data": FORM}}
}
ERRORS = {
    400: "a malformed request, a file that is not a readable image, an unknown version, or another server's Host",
    401: "no token, or a wrong one",
    408: "the request took too long to arrive",
    413: "too many bytes or pixels",
    503: "the queue is full, a version cannot be loaded, or the registry does not answer",
    504: "the answer took too long",
}


class ServerOptions(NamedTuple):
    """Options of the server.

    Args:
        limits: limits on each request and on the queue.
        token: token that requests must have; None: none.
        hosts: names that the header Host of a request may have, without a port; ``*``: any. The default keeps out web
            pages that make their own name lead to this machine (DNS rebinding).
        origins: origins of web pages of others that may use the server (CORS).
        reload_s: seconds between looks at the registry for an alias that moved; 0: never.
    """

    limits: Limits = Limits()
    token: str | None = None
    hosts: Sequence[str] = LOOPBACK_HOSTS
    origins: Sequence[str] = ()
    reload_s: float = 0.0


class _ScoringServer:
    """ASGI application: MLflow's scoring server for the version that is served at the time of the request.

    Args:
        deployment: the versions.
        limits: limits on the image files of a request.
    """

    def __init__(self, deployment: Deployment, limits: Limits):
        self.deployment, self.limits = deployment, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        application = self.deployment.default.scoring_server
        if scope["type"] == "http" and scope["method"] == "POST":
            if not any(name == b"content-type" for name, _ in scope["headers"]):
                # MLflow's server would answer with 500.
                refusal = JSONResponse({"detail": "Content-Type: none given; application/json is expected"}, 415)
                await refusal(scope, receive, send)
                return
            body = (await receive())["body"]  # the gate has received all of it
            receive = replay(body, receive)
            if b'"dataframe_' in body[:1000]:
                application = scoring_server_for_files(self.deployment.default.version, self.limits)
        await application(scope, receive, send)


def make_app(deployment: Deployment, options: ServerOptions = ServerOptions()) -> FastAPI:
    """Return the application that serves the versions of ``deployment``."""
    decoders = ThreadPoolExecutor(usable_cores().number, thread_name_prefix="decode")
    limits = options.limits

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_reload(deployment, options.reload_s)) if options.reload_s else None
        yield
        if watch is not None:
            watch.cancel()
        decoders.shutdown(wait=False, cancel_futures=True)
        deployment.executor.shutdown(wait=False, cancel_futures=True)

    errors: dict[int | str, dict] = {status: {"description": text} for status, text in ERRORS.items()}
    # Without FastAPI's pages for humans: they load scripts from the network.
    app = FastAPI(title=deployment.name, docs_url=None, redoc_url=None, lifespan=lifespan, responses=errors)

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> Response:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(ExternalError)
    async def report(_: Request, error: ExternalError) -> Response:
        return _unavailable(str(error))

    @app.exception_handler(MlflowException)
    @app.exception_handler(OSError)
    async def report_store(_: Request, error: MlflowException | OSError) -> Response:
        return _unavailable(f"the registry or its files cannot be read: {describe_store_error(error)}")

    async def find(version: str | None) -> Deployed:
        """Return a version; one that is not loaded yet is loaded in a thread."""
        if version is None or version in deployment.deployed:
            return deployment.default if version is None else deployment.deployed[version]
        return await asyncio.to_thread(deployment.get, version)

    @app.post("/predict", openapi_extra=IMAGE_BODY, tags=["models"])
    async def predict(
        request: Request, version: Annotated[str | None, Query()] = None, rectified: Annotated[bool, Query()] = False
    ) -> Response:
        """Classify image files: the body is one file, or a form with several.

        ``version`` is champion or challenger; without it, the version that is served. With ``rectified``, the answer
        has each image as the transformer samples it, as PNG in base64, in the size of the model's input.
        """
        files = await read_image_files(request, limits)
        deployed = await find(version)
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(decoders, decode_files, deployed.version, files, limits)
        outputs = await deployed.queue.predict(pixels)
        metadata = deployed.version.metadata
        predictions = describe(outputs, metadata.classes)
        if rectified and outputs.theta is not None:
            pictures = await loop.run_in_executor(decoders, encode_rectified, pixels, outputs.theta, metadata)
            for prediction, picture in zip(predictions, pictures, strict=True):
                prediction["rectified"] = picture
        answer = {"model": deployment.name, "version": deployed.version.number, "predictions": predictions}
        return Response(json.dumps(answer), media_type="application/json")

    app.include_router(make_page(deployment, find, decoders, limits))
    for path, method in SCORING_SERVER.items():
        app.router.routes.append(Route(path, _ScoringServer(deployment, limits), methods=[method]))
    app.add_middleware(Gate, limits=limits, token=options.token)
    if options.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.origins), allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )  # fmt: skip
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(options.hosts), www_redirect=False)
    return app


def _unavailable(reason: str) -> Response:
    LOG.error("%s", reason)
    return JSONResponse({"detail": reason}, 503, headers={"Retry-After": "60"})


async def _reload(deployment: Deployment, every_s: float) -> None:
    """Look for aliases that moved, until the server ends."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(deployment.refresh)
