"""Checkpoint storage: in the state folder, or under CHECKPOINT_STORAGE, which all hosts of a cluster can access."""

import uuid
import zipfile
from typing import NamedTuple

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.home import state_dir
from pipelines.training.cluster import run_on_other_hosts

VARIABLE = "CHECKPOINT_STORAGE"
STATE_FILE = "state.pt"
PROBE_CONTENT = b"seen"


class Checkpoint(NamedTuple):
    """A stored checkpoint.

    Args:
        folder: a path or URI.
        time: when it was written, in seconds since the Unix epoch.
        is_whole: whether its file is complete.
    """

    folder: str
    time: float
    is_whole: bool


def storage_of(training: str) -> str:
    """The checkpoint folder of a training, by the name of its state folder: an absolute path or a URI."""
    if shared := environment.get(VARIABLE):
        return f"{shared.rstrip('/')}/{training}"
    return str(state_dir("training", training, "checkpoints"))


def check_reachable(storage: str) -> None:
    """Check that the driver can write to ``storage`` and that every other host of the connected cluster can read it.

    Raises:
        UserError: another host cannot read it.
        ExternalError: the driver cannot write to it.
    """
    filesystem, root = FileSystem.from_uri(storage)
    probe = f"{root}/.{uuid.uuid4().hex}"
    try:
        if isinstance(filesystem, LocalFileSystem):  # S3 has no folders and would keep a marker object for one
            filesystem.create_dir(root)
        with filesystem.open_output_stream(probe) as file:
            file.write(PROBE_CONTENT)
    except OSError as error:
        raise ExternalError(f"{VARIABLE}: {storage}: nothing can be written there: {error}") from None
    try:
        errors = run_on_other_hosts(_read_error, storage, probe)
    finally:
        filesystem.delete_file(probe)
    blind = {host: error for host, error in errors.items() if error}
    if blind:
        host, error = next(iter(blind.items()))
        given = environment.get(VARIABLE) or "not set"
        raise UserError(
            f"{VARIABLE}: {given}, but {len(blind)} host(s) of the cluster cannot read what is written to {storage}, "
            f"{host} for one ({error}); give a folder or s3://bucket/folder that all of them reach"
        )


def _read_error(storage: str, probe: str) -> str:
    """Why this host cannot read the probe file; empty if it can."""
    try:
        with FileSystem.from_uri(storage)[0].open_input_file(probe) as file:
            return "" if file.read() == PROBE_CONTENT else "it is another one"
    except OSError as error:
        return str(error)


def checkpoints(storage: str) -> list[Checkpoint]:
    """List all checkpoints in ``storage``, newest first.

    A checkpoint is a zip file. One that a kill cut off lacks the directory at its end.
    """
    filesystem, root = FileSystem.from_uri(storage)
    found = []
    for info in _files(storage):
        if info.base_name == STATE_FILE:
            with filesystem.open_input_file(info.path) as file:
                folder = storage + info.path[len(root) :].removesuffix(f"/{STATE_FILE}")
                found.append(Checkpoint(folder, info.mtime_ns / 1e9, zipfile.is_zipfile(file)))
    return sorted(found, key=lambda checkpoint: checkpoint.time, reverse=True)


def size_of(storage: str) -> int:
    """The size of all files in ``storage`` in bytes; 0 if the folder does not exist."""
    return sum(info.size for info in _files(storage))


def _files(storage: str) -> list[FileInfo]:
    filesystem, root = FileSystem.from_uri(storage)
    try:
        entries = filesystem.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
    except OSError as error:
        raise ExternalError(f"{VARIABLE}: {storage}: nothing can be read there: {error}") from None
    return [entry for entry in entries if entry.type == FileType.File]


def remove(storage: str) -> None:
    """Delete ``storage`` and everything in it."""
    filesystem, root = FileSystem.from_uri(storage)
    filesystem.delete_dir(root)
