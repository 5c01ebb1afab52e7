"""All tests of the library run on one thread."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    # A second thread does not speed up tensors of this size. On a busy machine the threads wait for each other: 350 s
    # instead of 20 s.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
