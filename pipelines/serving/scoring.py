"""Scoring of many images on Ray Data: classes, probabilities and θ of each, as parquet files.

Actors that hold the model read, decode and classify batches of items. Their results stream to this process, which
writes them; it holds the names of the items, and the results of a few seconds.
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from pipelines.registry.versions import fetch_files, find_version
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.progress import progress
from pipelines.serving.loaded_version import Identity, load_fetched
from pipelines.serving.score_results import BROKEN, SCORES, Job, Results, unpack
from pipelines.serving.score_sources import check_apart, list_source
from pipelines.serving.scorer import BATCH, Scorer
from pipelines.tracking.client import connect
from pipelines.training.cluster import connected

LARGEST_BATCH = 256  # files of a batch; Ray needs about 60 ms for each batch
WRITE_EVERY_S = 10.0  # after a kill, the results of this time are computed again
WRITE_ROWS = 20_000


class Scored(NamedTuple):
    """The result of a job.

    Args:
        label: names the version.
        scored, broken: images with a class, and images that could not be read, of all starts.
        now: images of this start.
        seconds: time of this start, without that of Ray's.
    """

    label: str
    scored: int
    broken: int
    now: int
    seconds: float


def score(name: str, wanted: str, source: str, out: str, actors: int | None = None) -> Scored:
    """Score all images of a source that ``out`` does not have yet.

    Args:
        name: registered model.
        wanted: number or alias of the version.
        source: folder of images or of parquet files, local or ``s3://…``.
        out: folder of the results, local or ``s3://…``.
        actors: processes that hold the model; None: one for each GPU of the cluster, else one for each core.

    Raises:
        UserError: there is no such model, version or source, or ``out`` lies in the source, has results of another job
            or cannot be written.
        ExternalError: files of the version are damaged, or a worker fails.
    """
    found = list_source(source)
    check_apart(found.place, out)
    version = find_version(connect(), name, wanted)
    identity = Identity.of(version)
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_files(version, Path(folder) / "model")
        loaded = load_fetched(path, identity)
        loaded.check()
        files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    job = Job(found.place, identity.name, identity.number, identity.digest, loaded.metadata.classes)
    results = Results(out, job)
    finished, counts = results.finished()
    before = sum(counts.values())
    if before:
        print(f"{before:,} of {found.images:,} images are finished", flush=True)
    items = [item for item in found.items if item not in finished]
    started = time.monotonic()
    if items:
        with connected():
            started = time.monotonic()
            try:
                _run(_stream(items, files, identity, actors), results, counts, found.images)
            except RayError as error:
                line = str(error).strip().splitlines()[-1]
                raise ExternalError(f"a worker of Ray failed ({line}); finished results are kept") from error
    label = f"{identity.name}, version {identity.number} ({loaded.metadata.variant})"
    return Scored(label, counts[SCORES], counts[BROKEN], sum(counts.values()) - before, time.monotonic() - started)


def _stream(
    items: Sequence[str], files: dict[str, bytes], identity: Identity, actors: int | None
) -> Iterator[pa.Table]:
    """Yield the scored batches, in any order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a batch is sent when it is scored, instead of when a block of many is full
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\.data", category=UserWarning)  # of few items for many actors
    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    count = actors or gpus or cores
    if count > cores:
        raise UserError(f"ACTORS: {count} given; the cluster has {cores} CPU cores, and each actor takes one")
    threads = max(1, cores // count) if gpus else 1
    # Several batches for each actor, so that all of them have work until the end. Rows of parquet files are many: one
    # row group is a batch.
    batch = 1 if ".parquet#" in items[0] else max(BATCH, min(LARGEST_BATCH, len(items) // (4 * count)))
    size = max(batch, min(4 * batch, len(items) // (4 * count)))
    blocks = [pa.table({"item": items[start : start + size]}) for start in range(0, len(items), size)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        Scorer,  # pyright: ignore[reportArgumentType]
        batch_size=batch, compute=ray.data.ActorPoolStrategy(size=count), num_cpus=1,
        num_gpus=min(1.0, gpus / count) if gpus else None,
        fn_constructor_args=(ray.put(files), identity, threads),
    )  # fmt: skip
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(table, pa.Table)
        yield from unpack(table)


def _run(stream: Iterator[pa.Table], results: Results, counts: dict[str, int], total: int) -> None:
    """Write the results as they come, and show the progress; ``counts`` is brought up to date."""
    waiting: list[pa.Table] = []
    written = started = time.monotonic()
    before = sum(counts.values())
    with progress("score", total) as reporter:
        for table in stream:
            waiting.append(table)
            broken = table.num_rows - table.column("reason").null_count
            counts[BROKEN] += broken
            counts[SCORES] += table.num_rows - broken
            now, done = time.monotonic(), sum(counts.values())
            rate = (done - before) / max(now - started, 1e-9)
            reporter.update(done, f"{rate:,.0f} images/s" + (f", {counts[BROKEN]:,} broken" if counts[BROKEN] else ""))
            if now - written > WRITE_EVERY_S or sum(part.num_rows for part in waiting) > WRITE_ROWS:
                results.add(waiting)
                waiting, written = [], now
        if waiting:
            results.add(waiting)
