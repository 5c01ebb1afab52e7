"""Records the kernels that a function starts on a GPU, and starts all of them at once."""

from collections.abc import Callable

import torch

Replay = Callable[[], None]
"""Repeats what was recorded."""


def capture_function(run: Callable[[], None], reset: Callable[[], object] = lambda: None) -> Replay:
    """Capture a function as a CUDA graph, on a stream of its own.

    Args:
        run: reads and writes tensors with fixed addresses. It runs once before the capture, for its allocations.
        reset: called after that run.

    Raises:
        RuntimeError: the function does what a graph cannot repeat, such as reading a number from the GPU.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    reset()
    graph = torch.cuda.CUDAGraph()
    try:
        # torch does not leave the stream of a capture that fails; the outer block does.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, stream=stream):
            run()
    except RuntimeError as error:
        # After an error of ``run``, the end of the capture fails as well, with a message that names no cause.
        raise error.__context__ if isinstance(error.__context__, RuntimeError) else error from None
    return graph.replay
