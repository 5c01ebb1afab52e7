"""Where the checkpoints of trainings lie: in the state folder, or under CHECKPOINT_STORAGE, which all hosts reach."""

import uuid
import zipfile
from typing import NamedTuple

import pyarrow.fs
import torch
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.home import state_dir
from pipelines.training.cluster import on_other_hosts

VARIABLE = "CHECKPOINT_STORAGE"


class Checkpoint(NamedTuple):
    """The folder of one, when it was written, in seconds, and whether it can be read."""

    folder: str
    time: float
    is_whole: bool


def storage_of(training: str) -> str:
    """The folder of a training's checkpoints: an absolute path or a URI."""
    if shared := environment.value(VARIABLE):
        return f"{shared.rstrip('/')}/{training}"
    return str(state_dir("training", training, "checkpoints"))


def check_reachable(storage: str) -> None:
    """See that the driver can write there and that every other host of the connected cluster sees what it wrote.

    Raises:
        UserError: another host does not.
        ExternalError: nothing can be written there.
    """
    filesystem, root = FileSystem.from_uri(storage)
    mark = f"{root}/.{uuid.uuid4().hex}"
    try:
        if isinstance(filesystem, LocalFileSystem):  # S3 has no folders, and would keep a mark for one
            filesystem.create_dir(root)
        with filesystem.open_output_stream(mark) as file:
            file.write(b"seen")
    except OSError as error:
        raise ExternalError(f"{VARIABLE}: {storage}: nothing can be written there: {error}") from None
    try:
        blind = {host: said for host, said in on_other_hosts(_sees, storage, mark).items() if said}
    finally:
        filesystem.delete_file(mark)
    if blind:
        host, said = next(iter(blind.items()))
        given = environment.value(VARIABLE) or "not set"
        raise UserError(
            f"{VARIABLE}: {given}, but {len(blind)} host(s) of the cluster cannot read what is written to {storage}, "
            f"{host} for one ({said}); give a folder or s3://bucket/folder that all of them reach"
        )


def _sees(storage: str, mark: str) -> str:
    """Why a file is not seen; empty where it is."""
    try:
        with FileSystem.from_uri(storage)[0].open_input_file(mark) as file:
            return "" if file.read() == b"seen" else "it is another one"
    except OSError as error:
        return str(error)


def checkpoints(storage: str) -> list[Checkpoint]:
    """All that lie there, the newest first; half a zip, as a kill leaves it, lacks the directory at its end."""
    filesystem, root = FileSystem.from_uri(storage)
    found = []
    for info in _files(storage):
        if info.base_name == "state.pt":
            with filesystem.open_input_file(info.path) as file:
                folder = storage + info.path[len(root) :].removesuffix("/state.pt")
                found.append(Checkpoint(folder, info.mtime_ns / 1e9, zipfile.is_zipfile(file)))
    return sorted(found, key=lambda checkpoint: checkpoint.time, reverse=True)


def size_of(storage: str) -> int:
    """Bytes of all files there, or of none."""
    return sum(info.size for info in _files(storage))


def _files(storage: str) -> list[FileInfo]:
    filesystem, root = FileSystem.from_uri(storage)
    try:
        there = filesystem.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
    except OSError as error:
        raise ExternalError(f"{VARIABLE}: {storage}: nothing can be read there: {error}") from None
    return [info for info in there if info.type == FileType.File]


def remove(storage: str) -> None:
    """Delete all that lies there."""
    filesystem, root = FileSystem.from_uri(storage)
    filesystem.delete_dir(root)


STATE_FILE = "state.pt"


def load_state(storage: str) -> tuple[dict | None, list[str]]:
    """The furthest state among all checkpoints under ``storage`` (a path or URI), and notes on those left aside.

    Ray's own record of the last checkpoint is not asked: a process killed while that is written leaves half a file.
    """
    filesystem, root = pyarrow.fs.FileSystem.from_uri(storage)
    selector = pyarrow.fs.FileSelector(root, allow_not_found=True, recursive=True)
    best, notes = None, []
    for info in filesystem.get_file_info(selector):
        if info.base_name != STATE_FILE:
            continue
        try:
            with filesystem.open_input_file(info.path) as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a half-written archive makes the reader raise
            notes.append(f"{info.path}: unreadable checkpoint left aside ({type(error).__name__})")
            continue
        if best is None or _advance(state) > _advance(best):
            best = state
    return best, notes


def _advance(state: dict) -> tuple[int, int]:
    return len(state["finished"]), state["current"]["epoch"] if state["current"] else 0
