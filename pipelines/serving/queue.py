"""The queue in front of a model: requests that wait are run together."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from pipelines.serving.loaded_version import Outputs

MOST = 64  # images that are run together


class _Waiting(NamedTuple):
    pixels: np.ndarray
    outputs: "asyncio.Future[Outputs]"


class Queue:
    """Runs a model on the images of many requests, one batch at a time, in the order of arrival.

    The first request runs at once. Requests that arrive meanwhile wait, and run together when it is done; no request
    waits for others to arrive. A request with more than :data:`MOST` images is a batch of its own. Requests to
    ``/invocations`` do not pass the queue: MLflow's scoring server runs the model in threads of its own.

    Args:
        run: the model, for uint8 images (B, C, H, W).
        executor: runs it; with one thread, two models take turns.
    """

    def __init__(self, run: Callable[[np.ndarray], Outputs], executor: Executor):
        self.run, self.executor = run, executor
        self.waiting: deque[_Waiting] = deque()
        self.worker: asyncio.Task | None = None

    async def predict(self, pixels: np.ndarray) -> Outputs:
        """Return the outputs for uint8 images (B, C, H, W). An exception of the model is raised here."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(pixels, loop.create_future())
        self.waiting.append(waiting)
        if self.worker is None:
            self.worker = loop.create_task(self._work())
        return await waiting.outputs

    async def _work(self) -> None:
        try:
            while batch := self._take():
                await self._run(batch)
        finally:
            self.worker = None

    def _take(self) -> list[_Waiting]:
        """Take the oldest requests, without those that were given up."""
        batch: list[_Waiting] = []
        images = 0
        while self.waiting:
            first = self.waiting[0]
            if batch and images + len(first.pixels) > MOST:
                break
            self.waiting.popleft()
            if not first.outputs.done():
                batch.append(first)
                images += len(first.pixels)
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        pixels = batch[0].pixels if len(batch) == 1 else np.concatenate([waiting.pixels for waiting in batch])
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(self.executor, self.run, pixels)
        except Exception as error:
            for waiting in batch:
                if not waiting.outputs.done():
                    waiting.outputs.set_exception(error)
            return
        start = 0
        for waiting in batch:
            end = start + len(waiting.pixels)
            if not waiting.outputs.done():
                waiting.outputs.set_result(outputs.rows(start, end))
            start = end
