"""Image files in a zip or a tar, which may be compressed.

An archive is read twice: first the names, then the contents. Nothing is unpacked to disk. Members whose paths would
leave the archive's folder are refused, and so are archives that unpack to much more than their own size. A tar is read
as a stream, since a compressed tar can only be read forward.
"""

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, NoReturn

import zstandard

from pipelines.preparation.folders import Folder
from pipelines.runtime.errors import ExternalError, UserError, first_line

GIB = 2**30
# An archive may unpack to MAX_RATIO times its own size or to MAX_SMALL bytes, the larger of the two; a single member to
# MAX_FILE bytes. Images are compressed already. Small archives may expand more, because the headers of many tiny files
# are mostly zeros.
MAX_RATIO, MAX_SMALL, MAX_FILE = 200, GIB, GIB
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ZIP_ENCRYPTED, ZIP_UTF8, ZIP_FROM_UNIX = 0x1, 0x800, 3
# What the archive readers raise on damaged bytes.
READ_ERRORS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError,
    ValueError, RuntimeError, ArithmeticError, struct.error,
)  # fmt: skip


def _open_zstd(file: IO[bytes]) -> Any:
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


# The first bytes of each compression format, and its decompressor.
DECOMPRESSORS = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open, b"\x28\xb5\x2f\xfd": _open_zstd,
}  # fmt: skip


class ArchiveState(NamedTuple):
    """Size in bytes, modification time in nanoseconds and inode. They show later changes."""

    size: int
    modified_ns: int
    inode: int


class _Archive:
    """The checks that zip and tar share. ``names``, ``folders`` and ``others`` are those of :class:`Folder`."""

    def __init__(self, path: Path, endings: Collection[str]):
        self.path, self.endings = path, endings
        self.names: list[str] = []
        self.folders: set[str] = set()
        self.others: list[str] = []
        self.broken_links: dict[str, str] = {}  # none: an archive with links is refused
        self.unpacked_size = 0
        self.state = self._read_state()
        self.limit = max(MAX_SMALL, MAX_RATIO * self.state.size)

    def _read_state(self) -> ArchiveState:
        status = self.path.stat()
        return ArchiveState(status.st_size, status.st_mtime_ns, status.st_ino)

    def check_unchanged(self) -> None:
        """Check that the archive was neither modified nor replaced since its names were read.

        Raises:
            ExternalError: it was.
        """
        if not self.path.exists() or self._read_state() != self.state:
            raise ExternalError(f"{self.path}: changed while it was read; run again when nothing writes to it")

    def _refuse(self, name: str, reason: str) -> NoReturn:
        raise UserError(f"{self.path}: {name}: {reason}")

    def refuse_oversized(self, name: str) -> NoReturn:
        """Refuse the archive because ``name`` exceeds the limit of unpacked bytes.

        Raises:
            UserError: always.
        """
        limit = f"{self.limit / GIB:.0f} GiB in all and {MAX_FILE / GIB:.0f} GiB a file"
        self._refuse(name, f"unpacks to more than allowed for an archive of {self.state.size:,} bytes: {limit}")

    def _add_member(self, name: str, size: int, is_folder: bool) -> str:
        """Check a member and add it to ``names`` and ``folders``; returns its normalized name."""
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or ".." in name.split("\\") or re.match(r"[A-Za-z]:[\\/]|\\", name):
            self._refuse(name, "its path leaves the archive's folder")
        self.unpacked_size += size
        if size > MAX_FILE or self.unpacked_size > self.limit:
            self.refuse_oversized(name)
        name = "/".join(parts)
        folder = name if is_folder else name.rpartition("/")[0]
        while folder and folder not in self.folders:
            self.folders.add(folder)
            folder = folder.rpartition("/")[0]
        if not is_folder:
            included = PurePosixPath(name).suffix.lower() in self.endings
            (self.names if included else self.others).append(name)
        return name

    @contextmanager
    def _convert_read_errors(self) -> Iterator[None]:
        """Turn a reader's exception into a one-line :class:`ExternalError`."""
        try:
            yield
        except READ_ERRORS as error:
            self.check_unchanged()
            raise ExternalError(f"{self.path}: truncated or damaged: {first_line(error)}") from None


class Zip(_Archive):
    """A zip, with the interface of :class:`~pipelines.preparation.folders.Folder`.

    Raises:
        UserError: it is encrypted, or holds a link, a path that leaves its folder, or too many unpacked bytes.
        ExternalError: it is truncated or damaged.
    """

    def __init__(self, path: Path, endings: Collection[str]):
        super().__init__(path, endings)
        with self._convert_read_errors(), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = _decode_zip_name(info)
            if info.flag_bits & ZIP_ENCRYPTED:
                self._refuse(name, "encrypted; unpack it, or pack it without a password")
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == ZIP_FROM_UNIX else 0
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                self._refuse(name, "a link or a device, not a file")
            if info.compress_type not in ZIP_METHODS:
                self._refuse(name, f"compressed by zip's method {info.compress_type}, which is not supported")
            self.members[self._add_member(name, info.file_size, name.endswith("/"))] = info
        self.names = list(dict.fromkeys(self.names))

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the name and content of each file in ``wanted``; of files with the same name, the last one.

        Raises:
            ExternalError: the archive is damaged.
        """
        with self._convert_read_errors(), zipfile.ZipFile(self.path) as archive:
            for name in self.names:
                if name in wanted:
                    try:
                        content = archive.read(self.members[name])
                    except READ_ERRORS as error:
                        self.check_unchanged()
                        reason = first_line(error)
                        raise ExternalError(f"{self.path}: {name}: damaged in the archive: {reason}") from None
                    yield name, content


def _decode_zip_name(info: zipfile.ZipInfo) -> str:
    """A member's name; handles UTF-8 without its flag, as macOS writes it, and Windows' path separators."""
    name = info.filename
    if not info.flag_bits & ZIP_UTF8:
        with suppress(UnicodeError):  # a name that is not UTF-8 is cp437, the zip format's default
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if "/" not in name else name


class Tar(_Archive):
    """A tar, uncompressed or compressed by gzip, bzip2, xz or zstd, with the interface of :class:`Folder`.

    Raises:
        UserError: it holds a link, a device, a path that leaves its folder, or too many unpacked bytes.
        ExternalError: it is truncated or damaged.
    """

    def __init__(self, path: Path, endings: Collection[str]):
        super().__init__(path, endings)
        self.last: dict[str, int] = {}  # of members with the same name, the index of the last
        for i, (member, _) in enumerate(self._members()):
            if not (member.isreg() or member.isdir()):
                self._refuse(
                    member.name, "a link or a device, not a file; pack with: tar --dereference --hard-dereference"
                )
            self.last[self._add_member(member.name, member.size, member.isdir())] = i
        self.names = list(dict.fromkeys(self.names))

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        """Yield each member with its archive; its content must be read before the next member.

        Raises:
            ExternalError: the archive is damaged, or lacks its end.
        """
        last_header = b""

        class Header(tarfile.TarInfo):
            @classmethod
            def frombuf(cls, buf, encoding, errors):
                nonlocal last_header
                last_header = bytes(buf)
                return super().frombuf(buf, encoding, errors)

        with self._convert_read_errors(), self.path.open("rb") as file:
            stream = _SizeLimitedStream(self, _decompress(file))
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
                for member in archive:
                    yield member, archive
                # tarfile treats a missing, truncated or damaged header as the end. The real end is a block of zeros.
                if last_header != bytes(tarfile.BLOCKSIZE):
                    raise ExternalError(f"{self.path}: truncated or damaged: it has no end-of-archive mark")
            while stream.read(tarfile.RECORDSIZE):
                pass  # the checksum of a compressed stream is at its end

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the name and content of each file in ``wanted``; of files with the same name, the last one.

        Raises:
            ExternalError: the archive is damaged.
        """
        for i, (member, archive) in enumerate(self._members()):
            name = "/".join(PurePosixPath(member.name).parts)
            if name in wanted and self.last.get(name) == i:
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()


class _SizeLimitedStream:
    """A stream that refuses to read beyond the archive's limit. Headers can also unpack without end."""

    def __init__(self, archive: _Archive, stream: Any):
        self.archive, self.stream, self.bytes_read = archive, stream, 0

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.bytes_read += len(content)
        if self.bytes_read > self.archive.limit + tarfile.RECORDSIZE:
            self.archive.refuse_oversized("a header")
        return content


def _decompress(file: IO[bytes]) -> Any:
    head = file.read(max(map(len, DECOMPRESSORS)))
    file.seek(0)
    for magic, decompress in DECOMPRESSORS.items():
        if head.startswith(magic):
            return decompress(file)
    return file


def open_files(path: Path, endings: Collection[str]) -> Folder | Zip | Tar | None:
    """Open a folder, a zip or a tar, detected by its content and not by its name; None if it is none of them.

    Raises:
        UserError: an archive is encrypted, or holds a link, a path that leaves its folder, or too many unpacked bytes.
        ExternalError: an archive is truncated or damaged, or a folder cannot be read.
    """
    if path.is_dir():
        return Folder(path, endings)
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Zip(path, endings)
    if head.startswith(tuple(DECOMPRESSORS)) or _is_tar_header(head):
        return Tar(path, endings)
    return Zip(path, endings) if zipfile.is_zipfile(path) else None  # a self-extracting zip begins with a program


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True
