"""Mixup: weighted means of two images and of their labels.

Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018), section 2.
"""

import numpy as np
import torch
from torch import Tensor


def draw_partners(count: int, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a partner for each of ``count`` images, and the image's own share of the mixture; both (count,).

    The partners are a random permutation of all images. The shares are fp32 in [0, 1], from the distribution
    Beta(``alpha``, ``alpha``), independent for each image.
    """
    partners = torch.randperm(count, generator=generator)
    # torch's own sampler of this distribution accepts no generator.
    numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return partners, torch.from_numpy(numbers.beta(alpha, alpha, count).astype(np.float32))


def mix_labels(labels: Tensor, others: Tensor, shares: Tensor, classes: int) -> Tensor:
    """Return the probabilities of the classes (B, classes): ``shares`` for ``labels`` and the rest for ``others``.

    The cross-entropy with these probabilities is the mean of the cross-entropies with both labels, weighted in the same
    way. All arguments have shape (B,).
    """
    probabilities = torch.zeros(len(labels), classes, device=labels.device)
    probabilities.scatter_add_(1, labels[:, None], shares[:, None])
    return probabilities.scatter_add_(1, others[:, None], 1 - shares[:, None])
