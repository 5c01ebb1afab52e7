"""The columns of a table that hold the image, the class, the split, the group and the box."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from pipelines.preparation.listing import Box, Split, count_of, name_first
from pipelines.preparation.split_names import EXAMPLES, split_of
from pipelines.preparation.table_files import Table
from pipelines.runtime.errors import UserError
from pipelines.settings.data_params import TableParams

# The usual names, without their capitals and underscores; the first that the table has is used.
IMAGE_NAMES = (
    "filename", "imagepath", "filepath", "path", "imgpath", "imagefilename", "imagename", "image", "img", "imageid",
    "file",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labelname", "classname", "class", "category", "categoryname", "target", "classid", "labelid",
    "categoryid", "y",
)  # fmt: skip
SPLIT_NAMES = ("split", "subset", "partition", "istrain", "istest")
FOLDER, NONE = "folder", "none"  # values of data.table.label and data.table.split
TRUE, FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


class Columns(NamedTuple):
    """The names of the columns. None: the table has no such column, or its images are embedded."""

    image: str | None
    label: str | None
    split: str | None
    group: str | None
    box: list[str]


def find_columns(settings: TableParams, table: Table, exists: Callable[[str], bool]) -> Columns:
    """Find the columns by the settings, and where they are null by the usual names.

    Args:
        exists: whether a value of the table is the path of an image.

    Raises:
        UserError: a column that is named does not exist, or none is found for images or classes.
    """
    texts = list(table.columns)
    present = [*texts, *([table.embedded] if table.embedded else [])]
    boxes = [settings.box] if isinstance(settings.box, str) else list(settings.box or ())
    named = {"image": settings.image, "label": settings.label, "split": settings.split, "group": settings.group}
    for name, column in [*named.items(), *(("box", column) for column in boxes)]:
        special = column == {"label": FOLDER, "split": NONE}.get(name)
        possible = present if name == "image" else texts  # image files are no class, split, group or box
        if column is not None and column not in possible and not special:
            _refuse(name, repr(column), f"the columns of {table.name} are {', '.join(possible)}")

    image = settings.image
    if image is None and table.embedded is None:
        found = _usual(present, IMAGE_NAMES)
        existing = (column for column in found if table.rows and exists(table.columns[column][0]))
        image = next(existing, found[0] if found else None)
        if image is None:
            _refuse(
                "image", "null", f"no column of {table.name} has a usual name; its columns are {', '.join(present)}"
            )
    label = settings.label or next((column for column in _usual(present, LABEL_NAMES) if column != image), None)
    if label is None:
        choices = f"its columns are {', '.join(present)}; {FOLDER} means the name of the image's folder"
        _refuse("label", "null", f"no column of {table.name} has a usual name; {choices}")
    split = settings.split or next(iter(_usual(present, SPLIT_NAMES)), None)
    return Columns(
        None if table.embedded and image in (None, table.embedded) else image,
        None if label == FOLDER and FOLDER not in present else label,
        None if split == NONE and NONE not in present else split,
        settings.group,
        boxes,
    )


def has_usual_columns(table: Table) -> bool:
    """Whether a table has columns with the usual names of images and classes."""
    present = list(table.columns)
    return bool((table.embedded or _usual(present, IMAGE_NAMES)) and _usual(present, LABEL_NAMES))


def _usual(present: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with usual names, in the order of these names."""
    plain = {re.sub(r"[\W_]+", "", column.lower()): column for column in reversed(present)}
    return [plain[name] for name in names if name in plain]


def _refuse(name: str, given: str, reason: str) -> NoReturn:
    raise UserError(f"data.table.{name}: {given} given; {reason}")


def refuse_rows(setting: str, column: str, rows: Sequence[str], problem: str) -> None:
    """Refuse a table in which some rows have a problem, which the message names after "1 row" or "2 rows".

    Raises:
        UserError: with their number and the first of them, if there are any.
    """
    if rows:
        raise UserError(
            f"data.table.{setting}: column {column!r}: {count_of(len(rows), 'row')} {problem}: {name_first(rows)}"
        )


def parse_splits(column: str, values: Sequence[str], rows: Sequence[str]) -> list[Split]:
    """The splits that the values of a column stand for; of 0 and 1, the column's name says which is which.

    Raises:
        UserError: a value stands for no split; the message names each such value.
    """
    plain = [value.strip().lower() for value in values]
    if set(plain) <= {*TRUE, *FALSE} and ("train" in column.lower() or "test" in column.lower()):
        positive: tuple[Split, Split] = ("train", "test") if "train" in column.lower() else ("test", "train")
        return [positive[value in FALSE] for value in plain]
    known: dict[str, Split | None] = {value: split_of(value) for value in set(values)}
    unknown = [f"{row} ({value!r})" for row, value in zip(rows, values, strict=True) if known[value] is None]
    refuse_rows(
        "split", column, unknown, f"without the name of a split, such as {EXAMPLES} (none: the table has no splits)"
    )
    return [split for value in values if (split := known[value]) is not None]


def parse_box(settings: TableParams, texts: Sequence[str]) -> Box | None:
    """The box of four numbers, or of one text with four numbers; None if they are no numbers.

    The numbers are rounded to pixels. Which they are, and whether the last ones are inside, is ``data.table.box_form``.
    """
    try:
        numbers = [float(text) for text in re.split(r"[\s,;]+", " ".join(texts).strip("[]() "))]
        if settings.box_form == "size":
            left, top, width, height = numbers
            numbers = [left, top, left + width, top + height]
        first, second, third, fourth = (round(number) for number in numbers)
    except (ValueError, OverflowError):
        return None
    inside = settings.box_form == "inclusive"
    return Box(first, second, third + inside, fourth + inside)
