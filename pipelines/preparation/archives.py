"""Files in a folder, a zip or a tar, compressed or not: their names first, then their contents, one pass over each.

Nothing is unpacked to disk. What would leave the folder if somebody unpacked it is refused all the same, as is what
would unpack to far more than it is. A tar is read as a stream, since a compressed one can only be read forward.
"""

import bz2
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

import zstandard

from pipelines.runtime.errors import ExternalError, UserError

GIB = 2**30
# An archive may unpack to MAX_RATIO times its own size, or to MAX_SMALL where that is more; a single file to MAX_FILE.
# Images are compressed already; the headers of many tiny files, which are mostly zeros, are why small ones may expand.
MAX_RATIO, MAX_SMALL, MAX_FILE = 200, GIB, GIB
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ZIP_ENCRYPTED, ZIP_UTF8, ZIP_FROM_UNIX = 0x1, 0x800, 3
# What the readers raise on damaged bytes.
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError,
    ValueError, RuntimeError, ArithmeticError, struct.error,
)  # fmt: skip


def _unpack_zstd(file: IO[bytes]) -> Any:
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


# How a compressed tar begins, and what unpacks it.
COMPRESSIONS = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open, b"\x28\xb5\x2f\xfd": _unpack_zstd,
}  # fmt: skip


class Folder:
    """A folder and all below it; ``names`` are its files' of these endings, ``folders`` all folders' within it."""

    def __init__(self, path: Path, endings: Collection[str]):
        self.path, self.endings = path, endings
        self.folders: set[str] = set()
        self.stamps = dict(self._scan(path))
        self.names = list(self.stamps)

    def _scan(self, folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            for entry in entries:
                name = Path(entry.path).relative_to(self.path).as_posix()
                if entry.is_dir():
                    if entry.is_symlink() and folder.resolve().is_relative_to(Path(entry.path).resolve()):
                        raise UserError(f"{self.path}: {name}: a link back to a folder that it lies in")
                    self.folders.add(name)
                    yield from self._scan(Path(entry.path))
                elif Path(name).suffix.lower() in self.endings:
                    about = entry.stat()
                    if not stat.S_ISREG(about.st_mode):
                        raise UserError(f"{self.path}: {name}: a device or a pipe, not a file")
                    yield name, (about.st_size, about.st_mtime_ns)
        except OSError as error:
            raise ExternalError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from None

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Name and content of each file in ``wanted``.

        Raises:
            ExternalError: one cannot be read.
        """
        for name in self.names:
            if name in wanted:
                try:
                    content = (self.path / name).read_bytes()
                except OSError as error:
                    raise ExternalError(f"{self.path}: {name}: cannot be read: {error.strerror or error}") from None
                yield name, content

    def check_unchanged(self) -> None:
        """Raises ExternalError: a file was added, removed or written to since the names were read."""
        now = dict(self._scan(self.path))
        changed = sorted(name for name, _ in now.items() ^ self.stamps.items())
        if changed:
            raise ExternalError(f"{self.path}: {changed[0]}: changed while it was read; run again once it is at rest")


class _Archive:
    """What zip and tar have in common."""

    def __init__(self, path: Path, endings: Collection[str]):
        self.path, self.endings = path, endings
        self.names: list[str] = []
        self.folders: set[str] = set()
        self.unpacked = 0
        self.stamp = self._stamp()
        self.limit = max(MAX_SMALL, MAX_RATIO * self.stamp[0])

    def _stamp(self) -> tuple[int, int, int]:
        about = self.path.stat()
        return about.st_size, about.st_mtime_ns, about.st_ino

    def check_unchanged(self) -> None:
        """Raises ExternalError: the archive was written to or replaced since its names were read."""
        if not self.path.exists() or self._stamp() != self.stamp:
            raise ExternalError(f"{self.path}: changed while it was read; run again once it is at rest")

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise UserError(f"{self.path}: {name}: {why}")

    def _refuse_bomb(self, name: str) -> NoReturn:
        limit = f"{self.limit / GIB:.0f} GiB in all and {MAX_FILE / GIB:.0f} GiB a file"
        self._refuse(name, f"unpacks to more than is allowed of an archive of {self.stamp[0]:,} bytes: {limit}")

    def _take(self, name: str, size: int, is_folder: bool) -> str:
        """Check a member and note it; returns its name as it is used from here on."""
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or ".." in name.split("\\") or re.match(r"[A-Za-z]:[\\/]|\\", name):
            self._refuse(name, "its path leaves the archive's folder")
        self.unpacked += size
        if size > MAX_FILE or self.unpacked > self.limit:
            self._refuse_bomb(name)
        name = "/".join(parts)
        above = name if is_folder else name.rpartition("/")[0]
        while above and above not in self.folders:
            self.folders.add(above)
            above = above.rpartition("/")[0]
        if not is_folder and PurePosixPath(name).suffix.lower() in self.endings:
            self.names.append(name)
        return name

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Tell what a reader raises in one line."""
        try:
            yield
        except DAMAGED as error:
            self.check_unchanged()
            said = str(error).partition("\n")[0] or type(error).__name__
            raise ExternalError(f"{self.path}: cut off or damaged: {said}") from None


class Zip(_Archive):
    """A zip; as :class:`Folder`."""

    def __init__(self, path: Path, endings: Collection[str]):
        super().__init__(path, endings)
        with self._named(), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = _zip_name(info)
            if info.flag_bits & ZIP_ENCRYPTED:
                self._refuse(name, "encrypted; unpack it, or pack it without a password")
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == ZIP_FROM_UNIX else 0
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                self._refuse(name, "a link or a device, not a file")
            if info.compress_type not in ZIP_METHODS:
                self._refuse(name, f"compressed by zip's method {info.compress_type}, which is not read here")
            self.members[self._take(name, info.file_size, name.endswith("/"))] = info
        self.names = list(dict.fromkeys(self.names))

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """As :meth:`Folder.read`."""
        with self._named(), zipfile.ZipFile(self.path) as archive:
            for name in self.names:
                if name in wanted:
                    try:
                        content = archive.read(self.members[name])
                    except DAMAGED as error:
                        self.check_unchanged()
                        raise ExternalError(f"{self.path}: {name}: damaged in the archive: {error}") from None
                    yield name, content


def _zip_name(info: zipfile.ZipInfo) -> str:
    """A member's name; UTF-8 that is not marked as such (macOS packs so) and Windows' separators are understood."""
    name = info.filename
    if not info.flag_bits & ZIP_UTF8:
        with suppress(UnicodeError):  # what is no UTF-8 is cp437, as the format has it
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if "/" not in name else name


class Tar(_Archive):
    """A tar, plain or compressed by gzip, bzip2, xz or zstd; as :class:`Folder`."""

    def __init__(self, path: Path, endings: Collection[str]):
        super().__init__(path, endings)
        for member, _ in self._members():
            if not (member.isreg() or member.isdir()):
                self._refuse(
                    member.name, "a link or a device, not a file; pack with: tar --dereference --hard-dereference"
                )
            self._take(member.name, member.size, member.isdir())
        self.names = list(dict.fromkeys(self.names))

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        """Each member, to be read before the next is asked for. An archive that lacks its end is refused there."""
        last_header = b""

        class Header(tarfile.TarInfo):
            @classmethod
            def frombuf(cls, buf, encoding, errors):
                nonlocal last_header
                last_header = bytes(buf)
                return super().frombuf(buf, encoding, errors)

        with self._named(), self.path.open("rb") as file:
            stream = _Limited(self, _unpacked(file))
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
                for member in archive:
                    yield member, archive
                # tarfile takes a header that is missing, cut or damaged for the end; only a block of zeros is.
                if last_header != bytes(tarfile.BLOCKSIZE):
                    raise ExternalError(f"{self.path}: cut off or damaged: it has no end-of-archive mark")
            while stream.read(tarfile.RECORDSIZE):
                pass  # a compressed stream's checksum stands at its end

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """As :meth:`Folder.read`; of files that were added twice the later one comes last, as tar itself has it."""
        for member, archive in self._members():
            name = "/".join(PurePosixPath(member.name).parts)
            if name in wanted:
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()


class _Limited:
    """A stream that ends a run over the limit: headers, too, can be made to unpack without end."""

    def __init__(self, archive: _Archive, stream: Any):
        self.archive, self.stream, self.given = archive, stream, 0

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.given += len(content)
        if self.given > self.archive.limit + tarfile.RECORDSIZE:
            self.archive._refuse_bomb("a header")
        return content


def _unpacked(file: IO[bytes]) -> Any:
    head = file.read(max(map(len, COMPRESSIONS)))
    file.seek(0)
    for magic, unpack in COMPRESSIONS.items():
        if head.startswith(magic):
            return unpack(file)
    return file


def open_files(path: Path, endings: Collection[str]) -> Folder | Zip | Tar | None:
    """What lies at ``path``, by its content and not by its name; None where it is neither folder nor archive.

    Raises:
        UserError: an archive that holds what is not read: encrypted, links, paths that leave its folder, a bomb.
        ExternalError: an archive that is cut off or damaged, or a folder that cannot be read.
    """
    if path.is_dir():
        return Folder(path, endings)
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Zip(path, endings)
    if head.startswith(tuple(COMPRESSIONS)) or _is_tar_header(head):
        return Tar(path, endings)
    return Zip(path, endings) if zipfile.is_zipfile(path) else None  # one that unpacks itself begins with a program


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True
