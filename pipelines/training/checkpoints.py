"""Checkpoint storage: in the state folder, or under CHECKPOINT_STORAGE, which all hosts of a cluster can access."""

import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import write_bytes
from pipelines.runtime.home import state_dir

VARIABLE = "CHECKPOINT_STORAGE"
STATE_FILE = "state.pt"
PROBE_CONTENT = b"seen"


class Checkpoint(NamedTuple):
    """A stored checkpoint.

    Args:
        folder: a path or URI.
        seed_folder: the folder of its seed, which holds all checkpoints of that seed.
        time: when it was written, in seconds since the Unix epoch.
        is_whole: whether its file is complete.
    """

    folder: str
    seed_folder: str
    time: float
    is_whole: bool


def storage_of(training: str) -> str:
    """The checkpoint folder of a training, by the name of its state folder: an absolute path or a URI."""
    if shared := environment.get(VARIABLE):
        return f"{shared.rstrip('/')}/{training}"
    return str(state_dir("training", training, "checkpoints"))


def seed_storage(storage: str, seed: int) -> str:
    """The checkpoint folder of one seed, in that of its training."""
    return f"{storage}/seed-{seed}"


def check_writable(storage: str) -> None:
    """Check that this process can write to ``storage``.

    Raises:
        ExternalError: it cannot.
    """
    with probe(storage):
        pass


@contextmanager
def probe(storage: str) -> Iterator[str]:
    """Write a small file to ``storage`` for the duration of the block; yields its path.

    Raises:
        ExternalError: it cannot be written.
    """
    filesystem, root = FileSystem.from_uri(storage)
    path = f"{root}/.{uuid.uuid4().hex}"
    try:
        if isinstance(filesystem, LocalFileSystem):  # S3 has no folders and would keep a marker object for one
            filesystem.create_dir(root)
        with filesystem.open_output_stream(path) as file:
            file.write(PROBE_CONTENT)
    except OSError as error:
        raise ExternalError(f"{VARIABLE}: {storage}: nothing can be written there: {error}") from None
    try:
        yield path
    finally:
        filesystem.delete_file(path)


@contextmanager
def storage_errors_explained(storage: str) -> Iterator[None]:
    """Turn errors of S3 in the block into an :class:`ExternalError`. They have no error number."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ExternalError(f"{VARIABLE}: {storage}: {reason[:300]}; the last checkpoint is kept") from None


class CheckpointWriter:
    """Writes the checkpoints of a seed in one start of its training, each to a folder of its own.

    Args:
        storage: the checkpoint folder of the seed, a path or URI.
        keep: number of checkpoints to keep, the newest of all starts.
    """

    def __init__(self, storage: str, keep: int):
        self.storage, self.keep = storage, keep
        self.filesystem, root = FileSystem.from_uri(storage)
        self.folder = f"{root}/{uuid.uuid4().hex[:8]}"

    @cached_property
    def stored(self) -> list[str]:
        """Folders of the stored checkpoints, oldest first; read from the storage before the first is written."""
        files = sorted(state_files(self.storage), key=lambda info: info.mtime_ns)
        return [info.path.removesuffix(f"/{STATE_FILE}") for info in files]

    def write(self, content: bytes, epochs_done: int) -> None:
        """Write a checkpoint, then delete those beyond ``keep``.

        Raises:
            OSError, ExternalError: it cannot be written.
        """
        stored, folder = self.stored, f"{self.folder}/checkpoint_{epochs_done:06d}"
        with storage_errors_explained(self.storage):
            if isinstance(self.filesystem, LocalFileSystem):
                write_bytes(Path(folder, STATE_FILE), content)
            else:  # S3 shows whole objects only
                with self.filesystem.open_output_stream(f"{folder}/{STATE_FILE}") as file:
                    file.write(content)
        stored.append(folder)
        while len(stored) > self.keep:
            with suppress(OSError):  # an extra checkpoint is harmless, and make clean deletes it
                self.filesystem.delete_dir(stored.pop(0))


def checkpoints(storage: str) -> list[Checkpoint]:
    """List all checkpoints in ``storage``, newest first.

    A checkpoint is a zip file. If a kill truncated it, the directory at its end is missing.
    """
    filesystem, root = FileSystem.from_uri(storage)
    found = []
    for info in state_files(storage):
        folder = storage + info.path[len(root) :].removesuffix(f"/{STATE_FILE}")
        with suppress(FileNotFoundError), filesystem.open_input_file(info.path) as file:  # deleted since
            seed_folder = folder.rsplit("/", 2)[0]
            found.append(Checkpoint(folder, seed_folder, info.mtime_ns / 1e9, zipfile.is_zipfile(file)))
    return sorted(found, key=lambda checkpoint: checkpoint.time, reverse=True)


def state_files(storage: str) -> list[FileInfo]:
    """List the files of all checkpoints in ``storage``.

    Raises:
        ExternalError: ``storage`` cannot be read.
    """
    return [info for info in _files(storage) if info.base_name == STATE_FILE]


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
    with storage_errors_explained(storage):
        filesystem.delete_dir(root)
