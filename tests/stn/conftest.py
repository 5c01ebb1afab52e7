"""One thread for all tests of the library."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    # On tensors this small a second thread gains nothing, and on a busy machine each waits for the other: 350 s for 20.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
