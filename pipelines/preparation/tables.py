"""Data sets whose images are listed in tables: paths or image files with their classes, splits, groups and boxes."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipelines.preparation.archives import Tar, Zip
from pipelines.preparation.folders import Folder
from pipelines.preparation.groups import check_groups, find_groups
from pipelines.preparation.images import ENDINGS as IMAGE_ENDINGS
from pipelines.preparation.layout import is_hidden
from pipelines.preparation.listing import (
    SPLITS,
    Box,
    Listing,
    Record,
    Split,
    check_classes,
    count_of,
    describe_files,
    name_first,
)
from pipelines.preparation.split_names import EXAMPLES, split_of_path
from pipelines.preparation.table_columns import (
    Columns,
    find_columns,
    has_usual_columns,
    parse_box,
    parse_splits,
    refuse_rows,
)
from pipelines.preparation.table_files import ENDINGS, PARQUET, Table, read_embedded, read_table
from pipelines.preparation.table_lists import join_lists
from pipelines.preparation.table_paths import ImagePaths
from pipelines.runtime.errors import UserError
from pipelines.settings.data_params import DataParams

AnyFiles = Folder | Zip | Tar
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of Hugging Face's image folders


def find_tables(files: AnyFiles) -> list[str]:
    """The tables of a source that may be used without a setting.

    These are Hugging Face's ``metadata.csv``, ``.jsonl`` or ``.parquet`` beside images, and parquet files where there
    are no images.
    """
    others = [name for name in files.others if not is_hidden(PurePosixPath(name).parts)]
    metadata = [name for name in others if PurePosixPath(name).name.lower() in METADATA]
    return metadata or ([name for name in others if name.lower().endswith(PARQUET)] if not files.names else [])


def are_usual(files: AnyFiles, names: Sequence[str]) -> bool:
    """Whether tables that were found have columns with the usual names of images and classes.

    Args:
        files: all images and tables of the source.
    """
    return all(has_usual_columns(read_table(name, content)) for name, content in _contents(files, names))


def list_tables(data: DataParams, path: Path, files: AnyFiles, patterns: Sequence[str]) -> Listing:
    """List the images of tables.

    Args:
        path: where the source lies.
        files: all images and tables in it, see :data:`pipelines.preparation.table_files.ENDINGS`.
        patterns: names of the tables, which may have the wildcards ``*`` and ``?``.

    Raises:
        UserError: a table does not exist or cannot be read, or its rows do not say which image has which class; the
            message names the column, the number of rows, and the first of them.
        ExternalError: an archive is damaged.
    """
    names = [name for name in files.names if not is_hidden(PurePosixPath(name).parts)]
    used = _match(data.source, patterns, [name for name in names if PurePosixPath(name).suffix.lower() in ENDINGS])
    tables = join_lists([read_table(name, content) for name, content in _contents(files, used)])
    images = ImagePaths([name for name in names if PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS])
    splits = _splits_by_name(tables)
    rows = [row for table in tables for row in _read_rows(data, table, images, splits)]
    left_alone: list[str] = []
    rows = _leave_out(data, rows, left_alone)
    classes = _order_classes(tables, rows)
    records = sorted((row.record for row in rows), key=lambda record: SPLITS.index(record.split))
    check_classes(data.source, records, classes)
    check_groups(data.group, records)
    unused = sorted(images.names.difference(record.name for record in records))
    left_alone += describe_files(unused, f"in no row of the table, such as {name_first(unused)}")
    others = [name for name in (*files.others, *names) if name not in images.names and name not in used]
    left_alone += describe_files(
        [name for name in others if not is_hidden(PurePosixPath(name).parts)], "neither images nor the table"
    )
    embedded = {table.name: table.embedded for table in tables if table.embedded}
    origin = f"{path.name} (table {name_first(used)})"
    return Listing(records, classes, origin, _Embedded(files, embedded) if embedded else files, left_alone)


def _match(source: str, patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that the patterns fit: from the source's top folder, or from a folder around all files."""
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [name for name in names if fnmatch(name, pattern)]
        fitting = fitting or [name for name in names if fnmatch(name, f"*/{pattern}")]
        if not fitting:
            tables = f"its tables: {name_first(names)}" if names else "it has no table"
            raise UserError(f"data.table.file: {pattern!r} given; no such file in data.source: {source!r}; {tables}")
        if len(fitting) > 1 and not set(pattern) & set("*?["):
            raise UserError(
                f"data.table.file: {pattern!r} given; {len(fitting)} files have this name: {name_first(fitting)}"
            )
        found |= dict.fromkeys(sorted(fitting))
    return list(found)


def _contents(files: AnyFiles, names: Collection[str]) -> Iterator[tuple[str, bytes | Path]]:
    """The content of each file, or its path where it can be read in parts."""
    if isinstance(files, Folder):
        yield from ((name, files.path / name) for name in names)
    else:
        contents = dict(files.read(set(names)))
        yield from ((name, contents[name]) for name in names)


def _splits_by_name(tables: Sequence[Table]) -> dict[str, Split]:
    """The splits in the names of tables, such as ``train-00000-of-00002.parquet``; none if all names have the same."""
    splits: dict[str, Split] = {table.name: split for table in tables if (split := split_of_path(table.name))}
    return splits if len(splits) < len(tables) or len(set(splits.values())) > 1 else {}


class _Row(NamedTuple):
    """A row of a table: its image, where the row is, and whether its image exists."""

    record: Record
    where: str
    exists: bool


def _read_rows(data: DataParams, table: Table, images: ImagePaths, by_name: Mapping[str, Split]) -> list[_Row]:
    """The rows of a table.

    Args:
        by_name: the splits of tables, where they have no column of splits.

    Raises:
        UserError: a column is missing, or a value is empty or cannot be understood.
    """
    columns = find_columns(data.table, table, images.has)
    count = len(table.rows)
    names, exist = _locate_images(table, columns, images)
    splits: list[Split] = [by_name.get(table.name, "train")] * count
    if columns.split is not None:
        splits = parse_splits(columns.split, table.columns[columns.split], table.rows)
    elif by_name and table.name not in by_name:
        raise UserError(
            f"data.table.file: {table.name}: neither its name nor a column has a split, such as {EXAMPLES}; "
            f"the names of other tables have: {name_first(list(by_name))}"
        )
    labels = _read_labels(table, columns, names)
    found = find_groups(data.group, names)
    groups: Sequence[str | None] = [found.get(name) for name in names]
    if columns.group is not None:
        groups = table.columns[columns.group]
        empty = [row for row, group, of in zip(table.rows, groups, splits, strict=True) if not group and of == "train"]
        refuse_rows("group", columns.group, empty, "without a group")
    boxes: list[Box | None] = [None] * count
    if columns.box:
        texts = list(zip(*(table.columns[column] for column in columns.box), strict=True))
        boxes = [parse_box(data.table, text) for text in texts]
        bad = [f"{row} ({' '.join(text)})" for row, text, box in zip(table.rows, texts, boxes, strict=True) if not box]
        refuse_rows("box", ", ".join(columns.box), bad, "without four numbers")
    return [
        _Row(Record(name, label, of, group or None, box), where, exists)
        for name, label, of, group, box, where, exists in zip(
            names, labels, splits, groups, boxes, table.rows, exist, strict=True
        )
    ]


def _locate_images(table: Table, columns: Columns, images: ImagePaths) -> tuple[list[str], list[bool]]:
    """The names of the images in the source, and whether they exist; the rows' names for embedded images."""
    if columns.image is None:
        return table.rows, [True] * len(table.rows)
    values = table.columns[columns.image]
    empty = [row for row, value in zip(table.rows, values, strict=True) if not value]
    refuse_rows("image", columns.image, empty, "without an image")
    found = images.locate(table.name, values)
    return [name or value for name, value in zip(found, values, strict=True)], [name is not None for name in found]


def _read_labels(table: Table, columns: Columns, names: Sequence[str]) -> list[str]:
    if columns.label is None:
        return [PurePosixPath(name).parent.name for name in names]
    labels = [unicodedata.normalize("NFC", value) for value in table.columns[columns.label]]
    if class_names := table.class_names.get(columns.label):
        numbers = {str(i): name for i, name in enumerate(class_names)} | {"-1": ""}  # -1: no label
        labels = [numbers.get(label, label) for label in labels]
    empty = [row for row, label in zip(table.rows, labels, strict=True) if not label]
    refuse_rows("label", columns.label, empty, "without a class")
    return labels


def _leave_out(data: DataParams, rows: list[_Row], left_alone: list[str]) -> list[_Row]:
    """The rows that are used: without repeated rows, and with ``data.skip_broken`` without those of missing images.

    Raises:
        UserError: images are missing, classes differ by case or spaces alone, or an image has two classes or splits.
    """
    missing = [f"{row.record.name} ({row.where})" for row in rows if not row.exists]
    if missing and not (data.skip_broken and len(missing) < len(rows)):
        raise UserError(
            f"data.table.image: {len(missing)} of {count_of(len(rows), 'row')} without an existing image in "
            f"{data.source!r}: {name_first(missing)}; repair them, or skip such rows with data.skip_broken: true"
        )
    if missing:
        left_alone.append(f"{count_of(len(missing), 'row')} without an existing image: {name_first(missing)}")
    rows = [row for row in rows if row.exists]
    _check_spelling(Counter(row.record.label for row in rows))
    first: dict[tuple[str, Box | None], _Row] = {}
    different = []
    for row in rows:
        other = first.setdefault((row.record.name, row.record.box), row)
        for given, before in zip(row.record[1:4], other.record[1:4], strict=True):
            if given != before:
                different.append(f"{row.record.title} is {before} in {other.where} and {given} in {row.where}")
                break
    if different:
        raise UserError(
            f"data.table: {count_of(len(different), 'row')} with the image of an earlier row, but another class, split "
            f"or group: {name_first(different)}"
        )
    if repeated := len(rows) - len(first):
        left_alone.append(f"{count_of(repeated, 'row')} with the image of an earlier row")
    return list(first.values())


def _check_spelling(counts: Mapping[str, int]) -> None:
    """Check that no classes differ by case or spaces alone.

    Raises:
        UserError: some do; the message has the number of their images.
    """
    spellings: dict[str, list[str]] = {}
    for label in sorted(counts):
        spellings.setdefault("".join(label.split()).casefold(), []).append(label)
    if same := [
        " and ".join(f"{s!r} ({counts[s]})" for s in labels) for labels in spellings.values() if len(labels) > 1
    ]:
        raise UserError(f"data.table.label: {count_of(len(same), 'class')} with several spellings: {name_first(same)}")


def _order_classes(tables: Sequence[Table], rows: Sequence[_Row]) -> list[str]:
    """The classes that have images: in Hugging Face's order, else by number if they are numbers, else sorted."""
    present = {row.record.label for row in rows}
    for table in tables:
        for names in table.class_names.values():
            if present <= set(names):
                return [name for name in names if name in present]
    if all(label.isdecimal() for label in present):
        return sorted(present, key=lambda label: (int(label), label))
    return sorted(present)


class _Embedded:
    """The images inside parquet files, named after their rows."""

    def __init__(self, files: AnyFiles, columns: Mapping[str, str]):
        self.files, self.columns = files, columns
        self.broken_links: Mapping[str, str] = {}

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the content of each wanted image."""
        for name, content in _contents(self.files, list(self.columns)):
            for row, image in read_embedded(name, content, self.columns[name]):
                if (title := f"{name} row {row}") in wanted:
                    yield title, image

    def check_unchanged(self) -> None:
        """Check that the parquet files are those that were listed."""
        self.files.check_unchanged()
