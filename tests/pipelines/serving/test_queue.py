"""The queue: requests that wait run together, and each gets its own outputs."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.serving.loaded_version import Outputs
from pipelines.serving.queue import MOST, Queue


class Model:
    """Returns each pixel as the probability; waits for ``go`` and notes the sizes of its batches."""

    def __init__(self):
        self.go, self.sizes = threading.Event(), []

    def __call__(self, pixels: np.ndarray) -> Outputs:
        assert self.go.wait(10)
        self.sizes.append(len(pixels))
        if (pixels == 255).any():
            raise ValueError("white")
        return Outputs(pixels.reshape(-1, 1) / 255, pixels.reshape(-1, 1))


def image(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1)


def run(test) -> list[int]:
    """Run a test with a queue and its model; returns the sizes of the batches."""
    model = Model()

    async def call():
        with ThreadPoolExecutor(1) as executor:
            try:
                await test(Queue(model, executor), model)
            finally:
                model.go.set()

    asyncio.run(call())
    return model.sizes


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 254), min_size=1, max_size=MOST + 6), min_size=1, max_size=20))
def test_each_request_gets_its_own_outputs(requests):
    async def test(queue, model):
        tasks = [asyncio.create_task(queue.predict(image(*values))) for values in requests]
        await asyncio.sleep(0)
        model.go.set()
        for values, outputs in zip(requests, await asyncio.gather(*tasks), strict=True):
            np.testing.assert_array_equal(outputs.probabilities[:, 0], np.array(values) / 255)
            np.testing.assert_array_equal(outputs.theta[:, 0], values)

    sizes = run(test)
    assert sum(sizes) == sum(map(len, requests))
    assert all(size <= MOST or size in map(len, requests) for size in sizes)


def test_the_first_request_does_not_wait_and_later_ones_run_together():
    async def test(queue, model):
        first = asyncio.create_task(queue.predict(image(1)))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(queue.predict(image(i))) for i in range(MOST + 5)]
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(first, *others)

    assert run(test) == [1, MOST, 5]


def test_a_failure_reaches_the_requests_of_its_batch_alone():
    async def test(queue, model):
        first = asyncio.create_task(queue.predict(image(255)))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(queue.predict(image(3)))
        await asyncio.sleep(0)
        model.go.set()
        with pytest.raises(ValueError, match="white"):
            await first
        assert (await second).theta[0, 0] == 3

    assert run(test) == [1, 1]


def test_a_request_that_was_given_up_is_not_run():
    async def test(queue, model):
        first = asyncio.create_task(queue.predict(image(1)))
        await asyncio.sleep(0.05)
        given_up, waiting = (asyncio.create_task(queue.predict(image(i))) for i in (2, 3))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        first.cancel()
        model.go.set()
        assert (await waiting).theta[0, 0] == 3

    assert run(test) == [1, 1]
