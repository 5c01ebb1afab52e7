"""Full precision of convolutions on GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute fp32 convolutions in fp32 inside the block, or inside a function that has this as its decorator.

    By default cuDNN rounds their inputs to TF32, which has 10 bits of precision. bf16 under autocast is not affected.
    Matrix products of PyTorch are not rounded by default, and no code of this library changes that: TF32 would round
    the coordinates of sampling grids.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
