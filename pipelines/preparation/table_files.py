"""Tables in CSV, TSV, JSON lines and parquet, and numbered lists, as columns of text."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.preparation.listing import count_of
from pipelines.runtime.errors import UserError, first_line

if TYPE_CHECKING:  # imported only where a parquet file is read
    from pyarrow.parquet import ParquetFile

DELIMITED, JSON, PARQUET, LIST = (".csv", ".tsv", ".tab"), (".jsonl", ".ndjson", ".json"), (".parquet",), (".txt",)
ENDINGS = frozenset((*DELIMITED, *JSON, *PARQUET, *LIST))
DELIMITERS = ("\t", ";", ",", "|")
BATCH = 64  # rows of a parquet file that are in memory at once


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        name: name of its file.
        columns: the values of each column as text, empty where there is none.
        rows: where each row comes from, for messages.
        embedded: a column whose values are image files; it is not in ``columns``.
        class_names: names of the classes for columns with their numbers, which Hugging Face's parquet files have.
    """

    name: str
    columns: Mapping[str, list[str]]
    rows: list[str]
    embedded: str | None = None
    class_names: Mapping[str, list[str]] = field(default_factory=dict)


def read_table(name: str, content: bytes | Path) -> Table:
    """Read a table by the ending of its name.

    Args:
        content: the content of the file, or its path.

    Raises:
        UserError: it is damaged, or not of its format; the message has the line if there is one.
    """
    ending = PurePosixPath(name).suffix.lower()
    if ending in PARQUET:
        return _read_parquet(name, content)
    try:
        text = (content.read_bytes() if isinstance(content, Path) else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(name, f"not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8")
    if ending in JSON:
        return _read_json(name, text)
    return _read_list(name, text) if ending in LIST else _read_delimited(name, text)


def _refuse(name: str, reason: str) -> NoReturn:
    raise UserError(f"data.table.file: {name}: {reason}")


def _read_delimited(name: str, text: str) -> Table:
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=header.count), strict=True)
    rows, where = [], []
    try:
        titles = [title.strip() for title in next(reader, [])]
        for row in filter(None, reader):
            if len(row) != len(titles):
                _refuse(
                    name, f"line {reader.line_num} has {count_of(len(row), 'value')}, the first line has {len(titles)}"
                )
            rows.append([value.strip() for value in row])
            where.append(f"{name} line {reader.line_num}")
    except csv.Error as error:
        _refuse(name, f"line {reader.line_num}: {error}")
    _check_titles(name, titles)
    return Table(name, {title: [row[i] for row in rows] for i, title in enumerate(titles)}, where)


def _check_titles(name: str, titles: Sequence[str]) -> None:
    if not titles:
        _refuse(name, "it is empty")
    if repeated := {title for title in titles if titles.count(title) > 1}:
        _refuse(name, f"it has two columns with the name {min(repeated)!r}")


def _read_list(name: str, text: str) -> Table:
    """Lines of a number and its values, separated by spaces, without a header, like those of CUB-200-2011.

    The columns are called after the file: ``id``, then its stem, or its stem with ``.1``, ``.2`` … for several values.
    """
    lines = [(i, line.split()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    width, stem = len(lines[0][1]) if lines else 0, PurePosixPath(name).stem
    for i, values in lines:
        if len(values) != width or width < 2:
            _refuse(
                name,
                f"line {i} has {count_of(len(values), 'value')}; each line needs a number and the same count of values",
            )
    titles = ["id", stem] if width == 2 else ["id", *(f"{stem}.{i}" for i in range(1, width))]
    columns = {title: [values[i] for _, values in lines] for i, title in enumerate(titles)}
    return Table(name, columns, [f"{name} line {i}" for i, _ in lines])


def _read_json(name: str, text: str) -> Table:
    is_list, i = text.lstrip().startswith("["), 0
    items = []
    try:
        if is_list:
            items = list(enumerate(json.loads(text), 1))
        else:
            for i, line in enumerate(text.split("\n"), 1):  # strings may have the other line breaks of Unicode
                if line.strip():
                    items.append((i, json.loads(line)))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno if is_list else i} column {error.colno}"
        _refuse(name, f"neither JSON lines nor a JSON list: {place}: {error.msg}")
    where = "entry" if is_list else "line"
    if wrong := [i for i, item in items if not isinstance(item, dict)]:
        _refuse(name, f"{where} {wrong[0]} is no JSON object")
    titles = dict.fromkeys(title for _, item in items for title in item)
    columns = {title: [_as_text(item.get(title)) for _, item in items] for title in titles}
    return Table(name, columns, [f"{name} {where} {i}" for i, _ in items])


def _as_text(value: Any) -> str:
    """A value as text, empty for a missing one. The values of a list, such as a box, are separated by spaces."""
    if value is None or value != value:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value).strip()


def open_parquet(name: str, content: bytes | Path) -> "ParquetFile":
    """Open a parquet file.

    Raises:
        UserError: it is damaged.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(content, memory_map=True) if isinstance(content, Path) else ParquetFile(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        _refuse(name, f"not a parquet file, or damaged ({first_line(error)})")


def _read_parquet(name: str, content: bytes | Path) -> Table:
    import pyarrow as pa

    file = open_parquet(name, content)
    schema = file.schema_arrow
    _check_titles(name, schema.names)
    embedded = next((column.name for column in schema if _is_image(column.type)), None)
    try:
        table = file.read(columns=[title for title in schema.names if title != embedded])
    except (pa.ArrowException, OSError) as error:
        _refuse(name, f"damaged ({first_line(error)})")
    columns = {title: [_as_text(value) for value in table[title].to_pylist()] for title in table.column_names}
    rows = [f"{name} row {i}" for i in range(file.metadata.num_rows)]
    return Table(name, columns, rows, embedded, _read_class_names(schema.metadata or {}))


def _is_image(kind: Any) -> bool:
    """Whether a type of a parquet file is that of image files: bytes, or Hugging Face's ``{bytes, path}``."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {part.name for part in kind} >= {"bytes", "path"}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _read_class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of classes that Hugging Face's ``datasets`` keeps for columns with their numbers."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return {
        title: list(map(str, feature["names"]))
        for title, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def read_embedded(name: str, content: bytes | Path, column: str) -> Iterator[tuple[int, bytes]]:
    """Yield the row and the content of each image file in a column of a parquet file; empty where there is none.

    Raises:
        UserError: the file is damaged.
    """
    import pyarrow as pa

    row = 0
    try:
        for batch in open_parquet(name, content).iter_batches(batch_size=BATCH, columns=[column]):
            for value in batch.column(0).to_pylist():
                yield row, (value.get("bytes") if isinstance(value, dict) else value) or b""
                row += 1
    except (pa.ArrowException, OSError) as error:
        _refuse(name, f"damaged ({first_line(error)})")
