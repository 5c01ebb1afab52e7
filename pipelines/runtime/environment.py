"""The variables of .env.example, from the process's environment and from ``.env``.

``.env`` lies in the repository's home. A variable that is set outside it wins; an empty variable counts as not set.
Every ``python -m pipelines.<module>`` reads the variables before anything else and refuses invalid values.
"""

import getpass
import os
import re
from typing import NamedTuple

from dotenv.parser import parse_stream

from pipelines.runtime.home import home

FILE = ".env"


_nameless = False  # whether this process's user had no name


class Variable(NamedTuple):
    """Allowed values, as a pattern and in words; whether the value is secret and must never be printed."""

    pattern: str = r".*"
    allowed: str = ""
    secret: bool = False


VARIABLES = {
    "RAY_ADDRESS": Variable(r"auto|(?!\w+://)\S+:\d+", "host:port of the cluster's head, or auto"),
    "CHECKPOINT_STORAGE": Variable(r"/.*|s3://[^/\s]+(/\S*)?", "an absolute path or s3://bucket/folder"),
    "MLFLOW_TRACKING_URI": Variable(
        r"(https?|(sqlite|postgresql|mysql|mssql)(\+\w+)?)://.+|databricks(://.+)?",
        "http(s)://host:port of a server, or the address of a database: sqlite, postgresql, mysql or mssql",
    ),
    "MLFLOW_TRACKING_USERNAME": Variable(),
    "MLFLOW_TRACKING_PASSWORD": Variable(secret=True),
    "OPTUNA_STORAGE": Variable(r"\w+(\+\w+)?://\S+", "the address of a database: postgresql://user:password@host/name"),
    "AWS_ENDPOINT_URL": Variable(r"https?://\S+", "http(s)://host:port"),
    "AWS_ACCESS_KEY_ID": Variable(),
    "AWS_SECRET_ACCESS_KEY": Variable(secret=True),
    "AWS_DEFAULT_REGION": Variable(r"[\w-]+", "a region's name, such as eu-central-1"),
}  # fmt: skip
PAIRS = (("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))


def _name_user() -> None:
    """Name a user who has no entry in the system's list of users, as in many containers. MLflow and DVC need a name."""
    global _nameless
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        os.environ["USER"] = str(os.getuid())
        _nameless = True


def describe_nameless_user() -> str:
    """What to do if this process's user had no name. Empty if there was one."""
    number = os.getuid()
    command = f"user id {number} has no name, without which dvc fails; run: export USER={number} (make does so itself)"
    return command if _nameless else ""


def read() -> str | None:
    """Add the variables of ``.env`` to this process's environment; returns the first mistake in one line, or None."""
    _name_user()
    path = home() / FILE
    if path.exists():
        try:
            with path.open(encoding="utf-8") as file:
                bindings = list(parse_stream(file))
        except UnicodeDecodeError as error:
            return f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start})"
        for binding in bindings:
            if binding.error:  # the line is not printed: it may hold a password
                return f"{path}: line {binding.original.line}: not understood; expected NAME=value"
            if binding.key is not None and binding.value is not None:
                os.environ.setdefault(binding.key, binding.value)
    for name, variable in VARIABLES.items():
        given = get(name)
        if given and not re.fullmatch(variable.pattern, given):
            return f"{name}: '{redact(given)}' given; expected {variable.allowed}"
    for pair in PAIRS:
        for name, other in (pair, pair[::-1]):
            if get(name) and not get(other):
                return f"{name} is set and {other} is not; set both or neither"
    optuna, mlflow = get("OPTUNA_STORAGE"), get("MLFLOW_TRACKING_URI")
    if optuna and mlflow and _database(optuna) == _database(mlflow):
        return (
            "OPTUNA_STORAGE and MLFLOW_TRACKING_URI name the same database; both keep the version of their tables in "
            "alembic_version, so that neither could open it any more; give Optuna a database of its own"
        )
    return None


def _database(address: str) -> str:
    """An address of a database without its driver and account, to compare it with another."""
    return re.sub(r"^(\w+)(?:\+\w+)?://(?:[^/@]*@)?", r"\1://", address)


def get(name: str) -> str | None:
    """The value of a variable of :data:`VARIABLES`; None if it is not set."""
    assert name in VARIABLES, name
    return os.environ.get(name) or None


def redact(text: str) -> str:
    """Replace secrets in a text by ``***``: those of the environment, and passwords in addresses."""
    text = re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", text)
    text = re.sub(r"([?&]\w*(?:password|secret|token)=)[^&\s]*", r"\1***", text, flags=re.IGNORECASE)
    for name, variable in VARIABLES.items():
        if variable.secret and (secret := get(name)):
            text = text.replace(secret, "***")
    return text
