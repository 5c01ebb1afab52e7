"""What is scored: image files of a folder or a bucket, or images in parquet files."""

from collections.abc import Iterator
from typing import NamedTuple

import fsspec
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipelines.preparation.images import ENDINGS
from pipelines.runtime.errors import UserError

COLUMNS = ("image", "bytes", "content")  # of a parquet file, with image files as bytes or as {bytes, path}


class Source(NamedTuple):
    """Items to score.

    Args:
        items: image files, or row groups of parquet files as ``<file>#<row group>``.
        images: number of images.
    """

    items: list[str]
    images: int


def open_place(place: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or an address such as ``s3://bucket/folder``, and the path in it."""
    return fsspec.url_to_fs(place)


def list_source(place: str) -> Source:
    """List a folder of images, a parquet file or a folder of them, local or ``s3://…``.

    Raises:
        UserError: there is nothing, or neither images nor parquet files.
    """
    try:
        filesystem, path = open_place(place)
        files = sorted(filesystem.find(path))  # of a file, the file itself
    except (ValueError, ImportError) as error:
        raise UserError(f"SOURCE: {place!r} given; {error}") from None
    except (PermissionError, FileNotFoundError) as error:
        raise UserError(f"SOURCE: {place!r} given; it cannot be read ({error})") from None
    if not files:
        raise UserError(f"SOURCE: {place!r} given; there is no such file or folder, or it is empty")
    images = [file for file in files if any(file.lower().endswith(ending) for ending in ENDINGS)]
    tables = [file for file in files if file.endswith(".parquet")]
    if images and tables:
        raise UserError(f"SOURCE: {place!r} given; it has image files and parquet files, expected one kind")
    if images:
        return Source([_name(filesystem, file) for file in images], len(images))
    if not tables:
        raise UserError(
            f"SOURCE: {place!r} given; {len(files)} files, but none with the ending of an image or .parquet"
        )
    items, rows = [], 0
    for file in tables:
        with filesystem.open(file) as opened:
            metadata = pq.read_metadata(opened)
        _find_column(metadata.schema.to_arrow_schema().names, file)
        items += [f"{_name(filesystem, file)}#{group}" for group in range(metadata.num_row_groups)]
        rows += metadata.num_rows
    return Source(items, rows)


class Content(NamedTuple):
    """The content of an image file, or the reason why it cannot be read."""

    path: str
    content: bytes
    reason: str = ""


def read_item(item: str) -> Iterator[Content]:
    """Yield the images of an item. A file that cannot be read has a reason."""
    place, is_row_group, group = item.rpartition(".parquet#")
    if not is_row_group:
        filesystem, path = open_place(item)
        try:
            content = filesystem.cat_file(path)
            assert isinstance(content, bytes)
            yield Content(item, content)
        except OSError as error:
            yield Content(item, b"", error.strerror or str(error))
        return
    filesystem, path = open_place(f"{place}.parquet")
    with filesystem.open(path) as opened:
        file = pq.ParquetFile(opened)
        first = sum(file.metadata.row_group(i).num_rows for i in range(int(group)))
        column = _find_column(file.schema_arrow.names, path)
        values = file.read_row_group(int(group), columns=[column]).column(column)
    for row, value in enumerate(values, first):
        found = value.as_py()
        found = found.get("bytes") if isinstance(found, dict) else found
        name = f"{place}.parquet#{row}"
        yield Content(name, found) if isinstance(found, bytes) else Content(name, b"", "no bytes in the row")


def _name(filesystem: AbstractFileSystem, file: str) -> str:
    """Return the address of a file; of a local file, its path."""
    return file if isinstance(filesystem, LocalFileSystem) else filesystem.unstrip_protocol(file)


def _find_column(names: list[str], file: str) -> str:
    found = next((column for column in COLUMNS if column in names), None)
    if found is None:
        raise UserError(f"SOURCE: {file}: it has the columns {', '.join(names)}; expected one of {', '.join(COLUMNS)}")
    return found
