"""Error messages that say that memory ran out."""

import re

OUT_OF_MEMORY = re.compile(
    r"OutOfMemory|out of memory|MemoryError|bad_alloc|(can't|cannot) allocate memory|low on memory|ALLOC_FAILED",
    re.IGNORECASE,
)


def ran_out_of_memory(text: str) -> bool:
    """Whether an error message of Python, PyTorch, CUDA or Ray says that memory ran out."""
    return OUT_OF_MEMORY.search(text) is not None
