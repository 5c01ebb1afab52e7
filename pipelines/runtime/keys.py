"""Keys: short names computed from everything that a result depends on; equal inputs give equal names."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from pathspec import PathSpec

PROJECT = Path(__file__).resolve().parents[2]  # the folder that holds pipelines/ and stn/


def key_of(*parts) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of ``parts`` (JSON values)."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_code(*places: str, root: Path = PROJECT) -> str:
    """SHA-256 of the names and contents of code files.

    Files that ``.dvcignore`` names do not count; DVC ignores them in a stage's dependencies as well.

    Args:
        places: files or folders, relative to ``root``.
        root: the project's folder.
    """
    ignored = _ignored(root)
    digest = hashlib.sha256()
    for file in _files(root, places):
        name = file.relative_to(root).as_posix()
        if not ignored.match_file(name):
            digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _files(root: Path, places: Iterable[str]) -> list[Path]:
    found = set()
    for place in places:
        path = root / place
        found |= {path} if path.is_file() else {file for file in path.rglob("*") if file.is_file()}
    return sorted(found)


def _ignored(root: Path) -> PathSpec:
    """The patterns of ``.dvcignore``. Installed code has neither that file nor files of editors."""
    file = root / ".dvcignore"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else ["__pycache__"]
    return PathSpec.from_lines("gitignore", lines)
