"""Seeds of random number generators."""

import numpy as np


def derive_seed(*numbers: int) -> int:
    """Derive one 63-bit seed from several numbers. Their order matters: (0, 1) and (1, 0) give different seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
