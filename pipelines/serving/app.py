"""The scoring server: MLflow's own, as an ASGI application."""

from pathlib import Path


def make_app(path: Path):
    """MLflow's scoring server, an ASGI application, for the model whose files lie at ``path``."""
    import mlflow.pyfunc
    from fastapi.responses import PlainTextResponse
    from mlflow.pyfunc import scoring_server

    app = scoring_server.init(mlflow.pyfunc.load_model(str(path)))

    @app.middleware("http")
    async def content_type_is_needed(request, call_next):
        """MLflow's server answers a request without one by 500, as if the fault were its own."""
        if request.method == "POST" and "content-type" not in request.headers:
            return PlainTextResponse("Content-Type: none given; application/json is expected", 415)
        return await call_next(request)

    return app
