"""File of pending updates: an update is on disk before anything waits for the tracking store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from pipelines.runtime.files import write_bytes
from pipelines.runtime.locks import hold_lock
from pipelines.tracking.updates import Update


class QueueFile:
    """Pending updates in order, one line each; opened by :func:`open_queue`."""

    def __init__(self, path: Path, file: FileIO):
        self.path, self.file = path, file

    def read(self) -> list[Update]:
        """All updates. An incomplete last line, from a killed process, is removed."""
        self.file.seek(0)
        content = self.file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.file.truncate(len(whole))
        return [Update.from_line(line) for line in whole.splitlines()]

    def append(self, update: Update) -> None:
        """Write an update to the end of the file.

        Raises:
            OSError: the file cannot be written; it then holds nothing of the update.
        """
        line = update.to_line()
        size = self.file.seek(0, os.SEEK_END)
        try:
            if self.file.write(line) < len(line):
                self.file.write(line[-1:])  # a second write raises the error that cut the first one short
        except OSError as error:
            self.file.truncate(size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def clear(self) -> None:
        """Remove all updates."""
        self.file.truncate(0)

    def keep_only(self, updates: list[Update]) -> None:
        """Replace the file's content by ``updates``; without any, delete the file. No method may be called after this.

        Raises:
            OSError: the file cannot be written; it then holds what it held before.
        """
        if updates:
            write_bytes(self.path, b"".join(update.to_line() for update in updates))
        else:
            self.path.unlink(missing_ok=True)


@contextmanager
def open_queue(path: Path, wait: bool) -> Iterator[QueueFile]:
    """Hold the file of pending updates at ``path`` within the block; it is created if missing.

    Raises:
        ExternalError: another process holds it, and ``wait`` is False.
    """
    with hold_lock(f"delivery-{path.stem}", wait), path.open("ab+", buffering=0) as file:
        yield QueueFile(path, file)
