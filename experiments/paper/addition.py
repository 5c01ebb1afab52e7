"""The addition of two digits (Jaderberg et al., 2015, appendix A.1).

An image has two channels. Each channel holds one digit, distorted by RTS independently of the other. The class of an
image is the sum of its digits, so that there are 19 classes.
"""

from collections.abc import Sequence

import torch

from pipelines.outputs.prepared_data import Labeled
from stn.batches import Batch, Batches, Epoch
from stn.seeds import derive_seed

SUMS = [str(number) for number in range(19)]


class Sums(Batches):
    """Batches of pairs of images (b, 2, H, W) and the sums of their labels (b,).

    In an epoch each image is in the first channel of one pair and in the second channel of one pair. It is distorted
    independently for each of the two.
    """

    def draw_parts(self, seed: int, epoch: int) -> list[Epoch]:
        """Draw what :meth:`shuffled` uses for each channel."""
        return [self.draw(derive_seed(seed, channel), epoch) for channel in (1, 2)]

    def combine(self, parts: Sequence[Batch]) -> Batch:
        """Join the digits of both channels, and add their labels."""
        (images, labels), (other_images, other_labels) = parts
        return torch.cat((images, other_images), 1), labels + other_labels


def make_pairs(split: Labeled, seed: int) -> Labeled:
    """Pair each image of a split with a randomly chosen one: images uint8 (N, 2, H, W) and the sums of their labels."""
    others = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))
    images = torch.cat((split.images, split.images[others]), 1)
    return Labeled(images, split.labels + split.labels[others])
