"""The images that the paths in a table mean."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from posixpath import normpath

Shift = Callable[[str], str]  # from a path in the table to one in the source


class ImagePaths:
    """The images of a source by their paths, with and without their endings."""

    def __init__(self, names: Sequence[str]):
        self.names = frozenset(names)
        self._by_stem: dict[str, str | None] = {}
        for name in names:
            stem = name.removesuffix(PurePosixPath(name).suffix)
            self._by_stem[stem] = None if stem in self._by_stem else name  # None: several
        self._by_last: dict[str, list[str]] = {}
        for name in names:
            for last in {name.rpartition("/")[2], name.rpartition("/")[2].removesuffix(PurePosixPath(name).suffix)}:
                self._by_last.setdefault(last, []).append(name)

    def has(self, value: str) -> bool:
        """Whether a value may be a path: an image has its last part as its name."""
        return _clean(value).rpartition("/")[2] in self._by_last

    def locate(self, table: str, values: Sequence[str]) -> list[str | None]:
        """The image that each path in a table means; None if there is none.

        Paths are relative to the table. If fewer images exist there than elsewhere, they are relative to the source, or
        to it after their first folders are left out, or to one of the source's folders: the first of these places where
        most images exist, for all paths of the table. An image's ending may be missing.
        """
        paths = [_clean(value) for value in values]
        best: list[str | None] = [None] * len(paths)
        most = 0
        for shift in self._shifts(table, paths):
            found = [self._find(shift(path)) for path in paths]
            if (count := sum(name is not None for name in found)) > most:
                best, most = found, count
            if count == len(paths):
                break
        return best

    def _find(self, path: str) -> str | None:
        return path if path in self.names else self._by_stem.get(path)

    def _shifts(self, table: str, paths: Sequence[str]) -> Iterator[Shift]:
        folder = table.rpartition("/")[0]
        yield lambda path: normpath(f"{folder}/{path}").lstrip("/")
        yield lambda path: path
        deepest = max((path.count("/") for path in paths), default=0)
        for dropped in range(1, deepest + 1):
            yield lambda path, dropped=dropped: path.split("/", dropped)[-1]
            yield lambda path, dropped=dropped: f"{folder}/{path.split('/', dropped)[-1]}".lstrip("/")
        around: dict[str, None] = {}
        for path in (*paths[:1], *paths[-1:]):
            for name in self._by_last.get(path.rpartition("/")[2], []):
                stem = name.removesuffix(PurePosixPath(name).suffix)
                for whole in (name, stem):
                    if whole.endswith(f"/{path}"):
                        around[whole.removesuffix(path)] = None
        for prefix in around:
            yield lambda path, prefix=prefix: prefix + path


def _clean(path: str) -> str:
    """A path with ``/`` between its parts and without a leading ``./`` or ``/``."""
    return str(PurePosixPath(path.replace("\\", "/"))).lstrip("/")
