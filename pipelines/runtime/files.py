"""Where state lives: database, artifacts, checkpoints, downloads and locks have one home for all work trees.

``dvc exp run --temp`` and queued experiments run in a temporary clone, from which DVC_ROOT points to the user's
repository; state that lay in the clone would vanish with it.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.home import home as home

MAKE_ANEW = "delete it, and dvc repro makes it anew"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write to, moved there when the block is done: a reader never sees half of it.

    A block that fails leaves ``path`` as it was, and nothing beside it.

    Raises:
        OSError: as :func:`writing`.
    """
    beside = path.with_name(f".{os.getpid()}.{path.name}")  # the ending stays: some writers go by it
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            beside.replace(path)
        finally:
            with suppress(OSError):
                beside.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let what cannot be written within the block be told of ``path``.

    The operating system names no file where a disk is full, and safetensors raises an exception of its own.

    Raises:
        OSError: with ``path`` for its file.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _number(error: SafetensorError) -> int | None:
    """The operating system's error number, which safetensors puts into its text alone."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader never sees half of it."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """As :func:`write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value) -> None:
    """As :func:`write_text`, in JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path):
    """The value in a JSON file.

    Raises:
        ExternalError: it is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ExternalError(f"{path}: cut off or damaged ({error}); {MAKE_ANEW}") from None
