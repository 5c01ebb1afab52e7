"""A data set that lives on the device as one tensor, and its batches: shuffled, sharded, augmented, normalized.

No DataLoader and no per-image Python: a batch is a handful of operations on whole tensors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stn.distortions import Distortion, distort


@dataclass(frozen=True)
class Augmentation:
    """What changes afresh in every epoch.

    Args:
        flip: mirror left and right with probability 1/2.
        shift: move by up to so many whole pixels in each direction; what is uncovered is filled by reflection.
        distortion: see :class:`stn.distortions.Distortion`.
    """

    flip: bool = False
    shift: int = 0
    distortion: Distortion = field(default_factory=Distortion)


class Batches:
    """Batches of a data set held on ``device``.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        mean, std: of each channel, for pixels scaled to [0, 1].
        device: where the data set lives and batches are made.
        augmentation: for :meth:`shuffled`; :meth:`ordered` never augments.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        augmentation: Augmentation = Augmentation(),
    ):
        self.augmentation = augmentation
        self.device = device
        self.labels = labels.to(device, copy=True)
        self.height, self.width = images.shape[-2:]
        # Channels last: one pixel's channels are then fetched together, and convolutions take them as they come.
        padded = F.pad(images, [augmentation.shift] * 4, mode="reflect") if augmentation.shift else images
        self.pixels_NHWC = padded.to(device).permute(0, 2, 3, 1).contiguous()
        self.mean_C11 = torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1) * 255
        self.std_C11 = torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1) * 255

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(
        self, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's share of each full batch of one epoch: images fp32 (b, C, H, W), labels (b,).

        ``batch_size`` is global. Order and augmentation are drawn for all N images from (seed, epoch) alone and then
        indexed by rank, so that a global batch holds the same images, augmented alike, for any number of workers.
        The images left over after the last full batch are another few in each epoch.
        """
        count, augmentation = len(self), self.augmentation
        generator = torch.Generator().manual_seed(mix(seed, epoch))
        order = torch.randperm(count, generator=generator).to(self.device)
        corner_2N = torch.randint(2 * augmentation.shift + 1, (2, count), generator=generator).to(self.device)
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(self.device)
        matrices = None
        if not augmentation.distortion.is_identity:
            matrices = augmentation.distortion.draw(count, self.height, self.width, generator).to(self.device)
        rows = torch.arange(self.height, device=self.device)
        columns = torch.arange(self.width, device=self.device)

        for start in range(0, count - batch_size + 1, batch_size):
            index = order[start + rank : start + batch_size : world_size]
            row_bH = corner_2N[0, index, None] + rows
            column_bW = columns.expand(len(index), -1)
            if augmentation.flip:
                column_bW = torch.where(mirrored[index, None], self.width - 1 - columns, column_bW)
            column_bW = corner_2N[1, index, None] + column_bW
            # One gather picks the images, shifts and mirrors them.
            pixels = self.pixels_NHWC[index[:, None, None], row_bH[:, :, None], column_bW[:, None, :]]
            images = pixels.permute(0, 3, 1, 2).float()
            if matrices is not None:
                images = distort(images, matrices[index], augmentation.distortion.padding_mode)
            yield self.normalize(images), self.labels[index]

    def ordered(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image of this rank's share once, in order and as it is: images fp32 (b, C, H, W), labels (b,)."""
        margin = self.augmentation.shift
        rows = slice(margin, margin + self.height)
        columns = slice(margin, margin + self.width)
        for start in range(rank, len(self), batch_size * world_size):
            share = slice(start, start + batch_size * world_size, world_size)
            images = self.pixels_NHWC[share, rows, columns].permute(0, 3, 1, 2).float()
            yield self.normalize(images), self.labels[share]

    def normalize(self, images: Tensor) -> Tensor:
        """Images of pixel values in [0, 255], normalized by the data set's mean and std."""
        return (images - self.mean_C11) / self.std_C11


def mix(*numbers: int) -> int:
    """One 63-bit seed out of several numbers, so that (seed 0, epoch 1) and (seed 1, epoch 0) differ."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
