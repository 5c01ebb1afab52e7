"""The addition of two digits, Jaderberg et al. (2015), appendix A.1: an image of two channels, in each of them a digit
distorted by RTS on its own, and the sum is what is to be told: 19 classes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pipelines.outputs.prepared_data import Labeled
from stn.batches import Batches, derive_seed

SUMS = [str(number) for number in range(19)]


class Sums(Batches):
    """Batches of images (b, 2, H, W), each made of two of the data set's, and the sums of their labels.

    In an epoch each image is once the first and once the second of a pair, distorted anew for each.
    """

    def shuffled(
        self, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        first, second = (
            super(Sums, self).shuffled(batch_size, derive_seed(seed, i), epoch, rank, world_size) for i in (1, 2)
        )
        for (left, left_labels), (right, right_labels) in zip(first, second, strict=True):
            yield torch.cat((left, right), 1), left_labels + right_labels


def pair(split: Labeled, seed: int) -> Labeled:
    """Each image of a split beside another one, drawn once: uint8 (N, 2, H, W), and their sums."""
    others = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))
    images = torch.cat((split.images, split.images[others]), 1)
    return Labeled(images, split.labels + split.labels[others])
