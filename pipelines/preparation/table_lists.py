"""Numbered lists, such as those of CUB-200-2011, joined to one table."""

from collections import Counter

from pipelines.preparation.listing import count_of, name_first
from pipelines.preparation.table_files import LIST, Table
from pipelines.runtime.errors import UserError


def join_lists(tables: list[Table]) -> list[Table]:
    """Join numbered lists by their numbers; other tables stay as they are.

    Raises:
        UserError: lists have different numbers, a list has a number twice, or two have columns with the same name.
    """
    lists = [table for table in tables if table.name.lower().endswith(LIST)]
    if not lists:
        return tables
    for one in lists:
        seen = Counter(one.columns["id"])
        twice = [row for row, number in zip(one.rows, one.columns["id"], strict=True) if seen[number] > 1]
        if twice:
            raise UserError(f"data.table.file: {one.name}: lines with the same number: {name_first(twice)}")
    first, *others = lists
    columns = dict(first.columns)
    for other in others:
        if same := sorted(columns.keys() & other.columns.keys() - {"id"}):
            raise UserError(f"data.table.file: {other.name}: another list has the column {same[0]!r}, too")
        rows = {number: i for i, number in enumerate(other.columns["id"])}
        for one, another in ((first, other), (other, first)):
            numbers = set(another.columns["id"])
            missing = [row for row, number in zip(one.rows, one.columns["id"], strict=True) if number not in numbers]
            if missing:
                raise UserError(
                    f"data.table.file: {another.name}: no line has the number of {count_of(len(missing), 'row')}: "
                    f"{name_first(missing)}"
                )
        order = [rows[number] for number in first.columns["id"]]
        columns |= {title: [values[i] for i in order] for title, values in other.columns.items() if title != "id"}
    return [Table(first.name, columns, first.rows), *(table for table in tables if table not in lists)]
