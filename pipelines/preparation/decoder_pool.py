"""Decodes images in one process, and on all cores where the work is long enough to start them. Imports no torch."""

import multiprocessing
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain

from PIL import Image

from pipelines.preparation import decoder as worker
from pipelines.preparation.decoder import Decoder, Item, Outcome, Piece
from pipelines.runtime.cores import usable_cores
from pipelines.runtime.errors import ExternalError, first_line

# After this time in one process, the rest is estimated. Processes start if it would take longer than PAYS_S.
MEASURE_S, PAYS_S = 1.0, 4.0
BATCH_IMAGES, BATCH_BYTES = 64, 2**22  # that a process gets at once, at most


def decode_all(decoder: Decoder, items: Iterable[Item], total: int) -> Iterator[tuple[Sequence[Piece], list[Outcome]]]:
    """Decode images; yields the pieces of each with their outcomes, in the order of ``items``.

    Args:
        items: images and their pieces.
        total: number of images.

    Raises:
        ExternalError: a file cannot be read, or a process was killed or cannot be started.
        OSError: the file of pixels cannot be written.
    """
    remaining = iter(items)
    started = measured = time.perf_counter()
    for done, (content, pieces) in enumerate(remaining, 1):
        yield pieces, decoder.decode(content, pieces)
        now = time.perf_counter()
        if now - measured > MEASURE_S:
            measured = now
            seconds_left = (now - started) / done * (total - done)
            # Images in memory are decoded already; sending them to another process would take longer than the rest.
            if seconds_left > PAYS_S and not isinstance(content, Image.Image) and usable_cores().number > 1:
                break
    else:
        return
    yield from _decode_on_all_cores(decoder, remaining)


def _decode_on_all_cores(decoder: Decoder, items: Iterator[Item]) -> Iterator[tuple[Sequence[Piece], list[Outcome]]]:
    workers = usable_cores().number
    # A server process imports the decoder once. Its forks share that memory, and none of them has torch.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    pool = ProcessPoolExecutor(workers, context, initializer=worker.start)
    waiting: deque[tuple[list[Item], Future[list[list[Outcome]]]]] = deque()
    alive = True

    def submit(batch: list[Item]) -> Future[list[list[Outcome]]]:
        try:
            return pool.submit(worker.decode_batch, decoder, batch)
        except (OSError, RuntimeError) as error:
            if pool._broken:  # it is being closed because a process was killed
                raise BrokenProcessPool from None
            raise ExternalError(f"prepare: a process that decodes images cannot start: {first_line(error)}") from error

    try:
        for batch in chain(_batches(items), [None] * (workers + 2)):
            if batch:
                waiting.append((batch, submit(batch)))
            if waiting and (batch is None or len(waiting) > workers + 1):
                sent, future = waiting.popleft()
                for (_, pieces), outcomes in zip(sent, future.result(), strict=True):
                    yield pieces, outcomes
    except BrokenProcessPool:
        alive = False  # a killed process may hold a lock for which the pool would wait
        raise ExternalError(
            "prepare: a process that decodes images was killed, most likely for lack of memory; fewer cores need less "
            "(taskset)"
        ) from None
    finally:
        pool.shutdown(wait=alive, cancel_futures=True)


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Collect images into batches for one process."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[0]) if isinstance(item[0], bytes) else 0
        if len(batch) == BATCH_IMAGES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
