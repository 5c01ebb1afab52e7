"""Atomic writing of files, and errors that name the file."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipelines.runtime.errors import ExternalError

RECREATE = "delete it, and dvc repro creates it again"


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and move it to ``path`` at the end of the block.

    If the block fails, ``path`` keeps its content and the temporary file is deleted.

    Raises:
        OSError: see :func:`attach_path_to_errors`.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the suffix stays: some writers choose the format by it
    with attach_path_to_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def attach_path_to_errors(path: Path) -> Iterator[None]:
    """Attach ``path`` to write errors within the block.

    The operating system does not name the file when a disk is full, and safetensors raises its own exception.

    Raises:
        OSError: with ``path`` as its file name.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _error_number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _error_number(error: SafetensorError) -> int | None:
    """The operating system's error number. safetensors reports it only in its message."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        ValueError: ``value`` contains NaN or an infinity.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ExternalError: the file is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ExternalError(f"{path}: truncated or damaged ({error}); {RECREATE}") from None
