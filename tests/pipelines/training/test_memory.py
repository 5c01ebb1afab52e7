"""ran_out_of_memory: known by the text of an error, as Ray passes it on."""

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
def test_memory_that_has_run_out_is_known_by_what_is_said(ask):
    """As Ray hands it on, as the text of a traceback."""
    with pytest.raises((MemoryError, RuntimeError, RayOutOfMemoryError)) as raised:
        ask()
    assert ran_out_of_memory("".join(traceback.format_exception(raised.value)))


def test_what_is_no_lack_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.dot(torch.zeros(2), torch.zeros(3))
    assert not ran_out_of_memory(str(raised.value))
