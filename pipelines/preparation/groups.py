"""Groups of images that stay in one split, such as the frames of a track: from a pattern on the names of the files."""

import re
from collections.abc import Collection

from pipelines.preparation.listing import Record, count_of, name_first
from pipelines.runtime.errors import UserError


def find_groups(pattern: str | None, names: Collection[str]) -> dict[str, str]:
    """The group of each name that the pattern is found in: what its parentheses match, or all that it matches."""
    if pattern is None:
        return {}
    compiled = re.compile(pattern)
    found = {name: match for name in names if (match := compiled.search(name))}
    return {
        name: "/".join(part or "" for part in match.groups()) if match.groups() else match[0]
        for name, match in found.items()
    }


def check_groups(pattern: str | None, records: Collection[Record]) -> None:
    """Check that the pattern fits all images that may be split off; splits of the source need no groups.

    Raises:
        UserError: it fits some of them or none.
    """
    if pattern is None:
        return
    missing = [record.name for record in records if record.split == "train" and record.group is None]
    if missing:
        raise UserError(
            f"data.group: {pattern!r} given; it does not fit {count_of(len(missing), 'name')} of files, such as "
            f"{name_first(missing)}; it is a regular expression that is searched in the path below data.source"
        )
