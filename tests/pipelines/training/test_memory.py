"""ran_out_of_memory recognizes the text of an error, also in the traceback that Ray sends."""

import traceback

import numpy as np
import pytest
import torch
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError

from pipelines.training.memory import ran_out_of_memory


@pytest.mark.parametrize(
    "ask",
    [
        lambda: bytearray(2**62),
        lambda: np.empty(2**60, dtype=np.uint8),
        lambda: torch.empty(2**50, dtype=torch.uint8),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        lambda: (_ for _ in ()).throw(RayOutOfMemoryError("Task was killed due to the node running low on memory.")),
    ],
    ids=["Python", "NumPy", "PyTorch", "CUDA", "Ray"],
)
def test_out_of_memory_is_recognized_in_each_library_s_message(ask):
    """The error as Ray reports it: the text of a traceback."""
    with pytest.raises((MemoryError, RuntimeError, RayOutOfMemoryError)) as raised:
        ask()
    assert ran_out_of_memory("".join(traceback.format_exception(raised.value)))


def test_what_is_no_lack_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.dot(torch.zeros(2), torch.zeros(3))
    assert not ran_out_of_memory(str(raised.value))
