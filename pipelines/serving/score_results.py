"""Results of scoring: parquet files that are only added, so that a job continues where it was killed."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import write_bytes
from pipelines.serving.score_sources import open_place, refusals_explained

JOB = "job.json"
SCORES, BROKEN = "scores", "broken"
SCHEMA = pa.schema(
    {
        "item": pa.string(), "path": pa.string(), "class": pa.string(), "probabilities": pa.list_(pa.float32()),
        "theta": pa.list_(pa.list_(pa.float32())), "model": pa.string(), "version": pa.string(), "digest": pa.string(),
        "reason": pa.string(),
    }
)  # fmt: skip
"""Columns of scored batches; files have those of :data:`COLUMNS`."""
COLUMNS = {
    SCORES: ["path", "class", "probabilities", "theta", "model", "version", "digest", "item"],
    BROKEN: ["path", "reason", "item"],
}


@dataclass(frozen=True)
class Job:
    """What a folder of results belongs to.

    Args:
        source: absolute path or address.
        model, version, digest: of the model.
        classes: names of the classes, in the order of the probabilities.
    """

    source: str
    model: str
    version: str
    digest: str
    classes: Sequence[str]

    def identity(self) -> dict[str, str]:
        """Return the fields that are equal for all starts of a job."""
        return {name: getattr(self, name) for name in ("source", "model", "version", "digest")}


def read_job(content: str | bytes, place: str) -> dict[str, Any]:
    """Return the fields of a job's file in ``place``.

    Raises:
        UserError: it is damaged.
    """
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"OUT: {place!r} given; its {JOB} is damaged; name another folder")
    return found


def pack(table: pa.Table) -> pa.Table:
    """Return a table with one row that holds ``table``. Ray splits tables between rows; items must stay whole."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.table({"packed": pa.array([sink.getvalue().to_pybytes()], pa.large_binary())})


def unpack(packed: pa.Table) -> Iterator[pa.Table]:
    """Yield the tables of :func:`pack`."""
    for value in packed.column("packed"):
        with pa.ipc.open_stream(value.as_py()) as reader:
            yield reader.read_all()


class Results:
    """The folder of results of a job, local or ``s3://…``.

    A part has whole items. Its scores are written last and as a whole, and a part without them does not count; so an
    item is either finished or not.

    Args:
        place: the folder.
        job: the job.

    Raises:
        UserError: the folder has results of another job, or cannot be written.
    """

    def __init__(self, place: str, job: Job):
        with refusals_explained("OUT", place, "used"):
            self.filesystem, self.folder = open_place(place)
            self._claim(place, job)
            self.parts = len(self._files(SCORES))

    def _claim(self, place: str, job: Job) -> None:
        """Check that the folder is free or belongs to the job, and can be written.

        Raises:
            UserError: it has other content.
            OSError: it cannot be read or written.
        """
        path = f"{self.folder}/{JOB}"
        if self.filesystem.exists(path):
            found = read_job(self.filesystem.cat_file(path), place)
            for name, value in job.identity().items():
                if found.get(name) != value:
                    raise UserError(
                        f"OUT: {place!r} given; it has results of {name} {found.get(name)}, not {value}; "
                        "name another folder"
                    )
        elif self.filesystem.exists(self.folder) and self.filesystem.ls(self.folder):
            raise UserError(f"OUT: {place!r} given; it is not empty and has no {JOB}; name another folder")
        # Written again at each start: a folder that cannot be written is refused before anything is scored.
        self._write(JOB, json.dumps(asdict(job), indent=2).encode() + b"\n")

    def finished(self) -> tuple[set[str], dict[str, int]]:
        """Return the finished items, and the number of images of each kind."""
        items: set[str] = set()
        counts = dict.fromkeys(COLUMNS, 0)
        for kind in COLUMNS:
            for file in self._files(kind):
                if int(Path(file).stem.removeprefix("part-")) >= self.parts:
                    continue
                try:
                    with self.filesystem.open(file) as opened:
                        column = pq.read_table(opened, columns=["item"]).column("item")
                except (ValueError, OSError) as error:  # pyarrow's exceptions are both
                    raise ExternalError(
                        f"{file}: it cannot be read ({error}); score again, to another folder"
                    ) from None
                items.update(column.to_pylist())
                counts[kind] += len(column)
        return items, counts

    def add(self, tables: Sequence[pa.Table]) -> None:
        """Write scored batches as a part: broken images apart, then the scores."""
        table = pa.concat_tables(tables)
        broken, scores = (table.filter(rows) for rows in (~pc.field("reason").is_null(), pc.field("reason").is_null()))
        for kind, rows in ((BROKEN, broken), (SCORES, scores)):
            if kind == SCORES or rows.num_rows:
                buffer = io.BytesIO()
                pq.write_table(rows.select(COLUMNS[kind]), buffer, compression="zstd")
                self._write(f"{kind}/part-{self.parts:06}.parquet", buffer.getvalue())
        self.parts += 1

    def _files(self, kind: str) -> list[str]:
        folder = f"{self.folder}/{kind}"
        if not self.filesystem.exists(folder):
            return []
        return sorted(file for file in self.filesystem.find(folder) if file.endswith(".parquet"))

    def _write(self, name: str, content: bytes) -> None:
        if isinstance(self.filesystem, LocalFileSystem):
            write_bytes(Path(self.folder) / name, content)
        else:
            self.filesystem.pipe_file(f"{self.folder}/{name}", content)  # S3 shows an object when it is complete
