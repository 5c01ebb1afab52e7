"""Requests to the tracking store: time limits, and errors in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.runtime import environment
from pipelines.runtime.environment import redact

# Limits of one request to a server. By default, MLflow repeats it for four minutes and waits two minutes for an answer.
SHORT_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@contextmanager
def short_timeouts() -> Iterator[None]:
    """Give up soon on a server that does not answer, within the block; variables that the user has set win."""
    added = {name: value for name, value in SHORT_TIMEOUTS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def describe_store_error(error: Exception) -> str:
    """An error of the store in one line, without SQL statements, pages of HTML and secrets."""
    if getattr(error, "error_code", None) == "PERMISSION_DENIED":
        return f"{describe_account()} may not do this; the server's administrator can permit it"
    database_error = getattr(error.__cause__ or error, "orig", None)
    return redact(next(iter(str(database_error or error).strip().splitlines()), type(error).__name__))[:300]


def describe_account() -> str:
    """The account that requests are made with, for a message."""
    name = environment.get("MLFLOW_TRACKING_USERNAME")
    return f"MLFLOW_TRACKING_USERNAME: the account '{name}'" if name else "MLFLOW_TRACKING_USERNAME: no account given"
