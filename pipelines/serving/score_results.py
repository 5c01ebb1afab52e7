"""Results of scoring: parquet files that are only added, so that a job continues where it was killed."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import write_bytes
from pipelines.serving.score_sources import open_place

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
        source: as it was given.
        model, version, digest: of the model.
        classes: names of the classes, in the order of the probabilities.
    """

    source: str
    model: str
    version: str
    digest: str
    classes: Sequence[str]


class Results:
    """The folder of results of a job, local or ``s3://…``.

    A part has whole items. Its scores are written last and as a whole, and a part without them does not count; so an
    item is either finished or not.

    Args:
        place: the folder.
        job: the job.

    Raises:
        UserError: the folder has results of another job.
    """

    def __init__(self, place: str, job: Job):
        self.filesystem, self.folder = open_place(place)
        path = f"{self.folder}/{JOB}"
        if self.filesystem.exists(path):
            found = json.loads(self.filesystem.cat_file(path))
            expected = json.loads(json.dumps(asdict(job)))
            for name in ("source", "model", "version", "digest"):
                if found.get(name) != expected[name]:
                    raise UserError(
                        f"OUT: {place!r} given; it has results of {name} {found.get(name)}, not {expected[name]}; "
                        "name another folder"
                    )
        elif self.filesystem.exists(self.folder) and self.filesystem.ls(self.folder):
            raise UserError(f"OUT: {place!r} given; it is not empty and has no {JOB}; name another folder")
        else:
            self._write(JOB, json.dumps(asdict(job), indent=2).encode() + b"\n")
        self.parts = len(self._files(SCORES))

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
                except pa.ArrowInvalid as error:
                    raise ExternalError(f"{file}: damaged ({error}); score again, to another folder") from None
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
