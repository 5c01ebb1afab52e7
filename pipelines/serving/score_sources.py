"""What is scored: image files of a folder or a bucket, or images in parquet files."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import fsspec
import pyarrow.parquet as pq
from botocore.exceptions import NoCredentialsError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipelines.preparation.images import ENDINGS
from pipelines.runtime.errors import UserError

COLUMNS = ("image", "bytes", "content")  # of a parquet file, with image files as bytes or as {bytes, path}
REFUSALS = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, NoCredentialsError)
REFUSED = (errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG)  # the same of errors without a class of their own


class Source(NamedTuple):
    """Items to score.

    Args:
        place: absolute path or address of the folder or file.
        items: image files, or row groups of parquet files as ``<file>#<row group>``.
        images: number of images.
    """

    place: str
    items: list[str]
    images: int


def open_place(place: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or an address such as ``s3://bucket/folder``, and the path in it.

    Raises:
        ValueError: the address has an unknown protocol.
        ImportError: the package of its protocol is not installed.
    """
    return fsspec.url_to_fs(place)


@contextmanager
def refusals_explained(setting: str, place: str, what: str) -> Iterator[None]:
    """Turn errors of a place that cannot be used into a :class:`UserError`.

    Args:
        setting: ``SOURCE`` or ``OUT``.
        place: its value.
        what: what is done in the block: ``read`` or ``used``.
    """
    try:
        yield
    except (OSError, NoCredentialsError) as error:
        if not isinstance(error, REFUSALS) and getattr(error, "errno", None) not in REFUSED:
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{setting}: {place!r} given; it cannot be {what} ({reason})") from None
    except (ValueError, ImportError) as error:
        raise UserError(f"{setting}: {place!r} given; {str(error).partition(chr(10))[0]}") from None


def list_source(place: str) -> Source:
    """List a folder of images, a parquet file or a folder of them, local or ``s3://…``.

    Raises:
        UserError: there is nothing, or neither images nor parquet files, or it cannot be read.
    """
    with refusals_explained("SOURCE", place, "read"):
        filesystem, path = open_place(place)
        files = _find(filesystem, path)
    if not files:
        raise UserError(f"SOURCE: {place!r} given; there is no such file or folder, or it is empty")
    images = [file for file in files if any(file.lower().endswith(ending) for ending in ENDINGS)]
    tables = [file for file in files if file.endswith(".parquet")]
    if images and tables:
        raise UserError(f"SOURCE: {place!r} given; it has image files and parquet files, expected one kind")
    if images:
        return Source(_name(filesystem, path), [_name(filesystem, file) for file in images], len(images))
    if not tables:
        raise UserError(
            f"SOURCE: {place!r} given; {len(files)} files, but none with the ending of an image or .parquet"
        )
    items, rows = [], 0
    for file in tables:
        metadata = _read_metadata(filesystem, file)
        items += [f"{_name(filesystem, file)}#{group}" for group in range(metadata.num_row_groups)]
        rows += metadata.num_rows
    return Source(_name(filesystem, path), items, rows)


def _find(filesystem: AbstractFileSystem, path: str) -> list[str]:
    """Return all files of a folder; of a file, the file itself.

    Raises:
        OSError: a folder cannot be read. fsspec leaves such a folder out.
    """
    if not isinstance(filesystem, LocalFileSystem) or not Path(path).is_dir():
        return sorted(filesystem.find(path))
    return sorted(
        f"{folder}/{name}" for folder, _, names in os.walk(path, onerror=_fail, followlinks=True) for name in names
    )


def _fail(error: OSError) -> None:
    raise error


def _read_metadata(filesystem: AbstractFileSystem, file: str) -> pq.FileMetaData:
    """Return the metadata of a parquet file with images.

    Raises:
        UserError: it cannot be read, or has no column of images.
    """
    try:
        with refusals_explained("SOURCE", file, "read"), filesystem.open(file) as opened:
            metadata = pq.read_metadata(opened)
    except OSError as error:
        raise UserError(f"SOURCE: {file}: it is damaged ({error})") from None
    _find_column(metadata.schema.to_arrow_schema().names, file)
    return metadata


def check_apart(source: str, out: str) -> None:
    """Check that results are not written into the source: the next start would list them as images.

    Raises:
        UserError: ``out`` is the source or lies in it.
    """
    with refusals_explained("OUT", out, "used"):
        filesystem, path = open_place(out)
    source_filesystem, source_path = open_place(source)
    if filesystem != source_filesystem:
        return
    if isinstance(filesystem, LocalFileSystem):
        path, source_path = os.path.realpath(path), os.path.realpath(source_path)
    if f"{path.rstrip('/')}/".startswith(f"{source_path.rstrip('/')}/"):
        raise UserError(f"OUT: {out!r} given; it lies in SOURCE {source!r}; name a folder outside of it")


class Content(NamedTuple):
    """The content of an image file, or the reason why it cannot be read."""

    path: str
    content: bytes
    reason: str = ""


def read_item(item: str) -> Iterator[Content]:
    """Yield the images of an item. A file or row group that cannot be read has a reason."""
    place, is_row_group, group = item.rpartition(".parquet#")
    if is_row_group:
        yield from _read_row_group(f"{place}.parquet", int(group))
        return
    filesystem, path = open_place(item)
    try:
        content = filesystem.cat_file(path)
        assert isinstance(content, bytes)
        yield Content(item, content)
    except OSError as error:
        yield Content(item, b"", error.strerror or str(error))


def _read_row_group(place: str, group: int) -> Iterator[Content]:
    """Yield the images of a row group; if it is damaged, a reason for each of its rows."""
    filesystem, path = open_place(place)
    with filesystem.open(path) as opened:
        file = pq.ParquetFile(opened)
        sizes = [file.metadata.row_group(i).num_rows for i in range(group + 1)]
        column = _find_column(file.schema_arrow.names, path)
        names = [f"{place}#{row}" for row in range(sum(sizes[:-1]), sum(sizes))]
        try:
            values = file.read_row_group(group, columns=[column]).column(column)
        except (OSError, ValueError) as error:  # pyarrow's exceptions are both
            reason = f"its row group is damaged ({str(error).partition(chr(10))[0]})"
            yield from (Content(name, b"", reason) for name in names)
            return
    for name, value in zip(names, values, strict=True):
        found = value.as_py()
        found = found.get("bytes") if isinstance(found, dict) else found
        yield Content(name, found) if isinstance(found, bytes) else Content(name, b"", "no bytes in the row")


def _name(filesystem: AbstractFileSystem, file: str) -> str:
    """Return the address of a file; of a local file, its path."""
    return file if isinstance(filesystem, LocalFileSystem) else filesystem.unstrip_protocol(file)


def _find_column(names: list[str], file: str) -> str:
    found = next((column for column in COLUMNS if column in names), None)
    if found is None:
        raise UserError(f"SOURCE: {file}: it has the columns {', '.join(names)}; expected one of {', '.join(COLUMNS)}")
    return found
