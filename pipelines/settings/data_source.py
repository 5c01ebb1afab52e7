"""The setting data.source, which DVC reads as it is written: without ``~`` and without variables of the environment."""

import os
import subprocess
from pathlib import Path


def expand(source: str) -> str:
    """Replace ``~`` and variables of the environment; a path that exists as it is written stays."""
    return source if _exists(source) else os.path.expandvars(Path(source).expanduser())


def check_as_dvc_reads_it(source: str) -> None:
    """Refuse a path that means another one to a shell.

    Raises:
        ValueError: the message names the path to write instead.
    """
    try:
        expanded = expand(source)
    except RuntimeError:  # ~user without such a user
        expanded = ""
    if source.startswith("~") or ("$" in source and expanded != source):
        raise ValueError(
            f"source: {source!r} given; DVC replaces neither ~ nor variables"
            + (f"; write {expanded!r}" if expanded not in ("", source) else "")
        )


def path_to_store(source: str) -> str:
    """The form of data.source in params.yaml: expanded, and absolute if the work trees of experiments lack the path."""
    try:
        expanded = expand(source)
    except RuntimeError:
        return source  # the check of the setting refuses it
    return str(Path(expanded).absolute()) if is_missing_in_work_trees(expanded) else expanded


def is_missing_in_work_trees(source: str) -> bool:
    """Whether a path exists here, but not in the work tree of ``dvc exp run --temp`` or ``--queue``.

    Such a work tree has the files that git or DVC keeps.
    """
    if Path(source).is_absolute() or not _exists(source) or _exists(f"{source.rstrip('/')}.dvc"):
        return False
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "--", source], capture_output=True)
    except FileNotFoundError:
        return False
    return listed.returncode == 0 and not listed.stdout


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # such as a name that is too long
        return False
