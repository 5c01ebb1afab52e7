"""MLflow's scoring server as an ASGI application."""

from pathlib import Path

import mlflow.pyfunc
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from mlflow.pyfunc import scoring_server


def make_app(path: Path) -> FastAPI:
    """Return MLflow's scoring server for the model whose files are in ``path``."""
    app = scoring_server.init(mlflow.pyfunc.load_model(str(path)))

    @app.middleware("http")
    async def require_content_type(request, call_next):
        """Answer a request without a content type with 415; MLflow's server would answer it with 500."""
        if request.method == "POST" and "content-type" not in request.headers:
            return PlainTextResponse("Content-Type: none given; application/json is expected", 415)
        return await call_next(request)

    return app
