"""Image files in a folder."""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from pipelines.runtime.errors import ExternalError, UserError


class FileState(NamedTuple):
    """Size in bytes and modification time in nanoseconds, by which a later change is noticed."""

    size: int
    modified_ns: int


class FileIn(NamedTuple):
    """A file in a folder, which any process can read."""

    folder: Path
    name: str

    def read(self) -> bytes:
        """The content of the file.

        Raises:
            ExternalError: it cannot be read.
        """
        try:
            return (self.folder / self.name).read_bytes()
        except OSError as error:
            raise ExternalError(f"{self.folder}: {self.name}: cannot be read: {error.strerror or error}") from None


class Folder:
    """The files below a folder, found recursively; symbolic links are followed.

    Args:
        path: the folder.
        endings: file name endings to include, in lower case and with the dot.

    Attributes:
        names: paths of the included files relative to the folder, separated by ``/`` and sorted within each folder.
        folders: relative paths of all folders below it.
        others: relative paths of the files without an included ending.
        broken_links: targets of links that lead to nothing, by the links' relative paths. Those with an included ending
            are in ``names``, too.

    Raises:
        UserError: a link leads back to a folder above it, or a file is a device or a pipe.
        ExternalError: a folder cannot be read.
    """

    def __init__(self, path: Path, endings: Collection[str]):
        self.path, self.endings = path, endings
        self.folders: set[str] = set()
        self.broken_links: dict[str, str] = {}
        self.others: list[str] = []
        self.states = dict(self._scan(path, self.others))
        self.names = list(self.states)

    def _scan(self, folder: Path, others: list[str], linking: tuple[Path, ...] = ()) -> Iterator[tuple[str, FileState]]:
        """Yield the included files below a folder; ``linking``: the folders whose links led to it."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            for entry in entries:
                name = Path(entry.path).relative_to(self.path).as_posix()
                if entry.is_symlink() and not Path(entry.path).exists():
                    self.broken_links[name] = str(Path(entry.path).readlink())
                    if Path(name).suffix.lower() in self.endings:
                        yield name, FileState(0, 0)
                elif entry.is_dir():
                    path, links = Path(entry.path), linking
                    if entry.is_symlink():
                        links = (*linking, folder.resolve())
                        if any(place.is_relative_to(path.resolve()) for place in links):
                            raise UserError(f"{self.path}: {name}: a link back to a folder that contains it")
                    self.folders.add(name)
                    yield from self._scan(path, others, links)
                elif Path(name).suffix.lower() in self.endings:
                    status = entry.stat()
                    if not stat.S_ISREG(status.st_mode):
                        raise UserError(f"{self.path}: {name}: a device or a pipe, not a file")
                    yield name, FileState(status.st_size, status.st_mtime_ns)
                else:
                    others.append(name)
        except OSError as error:
            raise ExternalError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from None

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the name and content of each file in ``wanted``; the content of a broken link is empty.

        Raises:
            ExternalError: a file cannot be read.
        """
        for name, file in self.files(wanted):
            yield name, b"" if name in self.broken_links else file.read()

    def files(self, wanted: Collection[str]) -> Iterator[tuple[str, FileIn]]:
        """Yield the name of each file in ``wanted``, and the file."""
        return ((name, FileIn(self.path, name)) for name in self.names if name in wanted)

    def check_unchanged(self) -> None:
        """Check that no file was added, removed or modified since the names were read.

        Raises:
            ExternalError: a file changed; the message names the first one.
        """
        now = dict(self._scan(self.path, []))
        changed = sorted(name for name, _ in now.items() ^ self.states.items())
        if changed:
            raise ExternalError(
                f"{self.path}: {changed[0]}: changed while it was read; run again when nothing writes to it"
            )
