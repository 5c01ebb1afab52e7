"""Images of the user's own: class folders, or tables, in a folder or an archive."""

from pathlib import Path

from pipelines.preparation import table_files
from pipelines.preparation.archives import open_files
from pipelines.preparation.class_folders import list_class_folders
from pipelines.preparation.folders import Folder
from pipelines.preparation.images import ENDINGS
from pipelines.preparation.listing import Listing
from pipelines.preparation.tables import AnyFiles, are_usual, find_tables, list_tables
from pipelines.runtime.errors import UserError
from pipelines.settings.data_params import DataParams


def list_own_images(data: DataParams, path: Path) -> Listing:
    """List the images of a folder or an archive by the table in ``data.table``, by tables found, or by class folders.

    Raises:
        UserError: ``path`` holds no usable data set; the message says what is missing or which file is refused.
        ExternalError: an archive is damaged, or a folder cannot be read.
    """
    if data.table.files:
        return list_tables(data, path, _open(data, path, ENDINGS | table_files.ENDINGS), data.table.files)
    files = _open(data, path, ENDINGS)
    if found := find_tables(files):
        with_tables = _open(data, path, ENDINGS | table_files.ENDINGS)
        if not files.names or are_usual(with_tables, found):
            return list_tables(data, path, with_tables, found)
    return list_class_folders(data, path, files)


def holds_images(path: Path) -> bool:
    """Whether a folder holds any image file, or a table that is used without a setting, at any depth."""
    files = Folder(path, ENDINGS)
    return bool(files.names or find_tables(files))


def _open(data: DataParams, path: Path, endings: frozenset[str]) -> AnyFiles:
    files = open_files(path, endings)
    if files is not None:
        return files
    given = f"data.source: {data.source!r} given"
    if path.suffix.lower() in table_files.ENDINGS - set(table_files.LIST):
        raise UserError(f"{given}; it is a table: give its folder, with the images, and data.table.file: {path.name}")
    raise UserError(
        f"{given}; it is neither a folder nor a zip nor a tar (uncompressed, or compressed by gzip, bzip2, xz or zstd)"
    )
