"""Batches of a data set that is held on the device as one tensor: shuffled, sharded, augmented and normalized.

There is no DataLoader and no per-image Python code. A batch takes a few operations on whole tensors.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stn.augmentation import Augmentation, Draws
from stn.clutter import add_clutter
from stn.colors import jitter_colors
from stn.crops import window_points
from stn.distortions import distort
from stn.mixup import mix_labels
from stn.settings import Normalization


class Batches:
    """Batches of a data set on ``device``.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        normalization: mean and standard deviation of each channel.
        device: device of the data set and of the batches.
        augmentation: applies to :meth:`shuffled`. :meth:`ordered` never augments.
        classes: number of classes, for mixup. None: one more than the largest label.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        normalization: Normalization,
        device: torch.device,
        augmentation: Augmentation = Augmentation(),
        *,
        classes: int | None = None,
    ):
        self.augmentation = augmentation
        self.device = device
        self.labels = labels.to(device, copy=True)
        self.classes = int(labels.max()) + 1 if classes is None and augmentation.mixup else classes
        self.height, self.width = images.shape[-2:]
        # Channels last: the channels of a pixel are read together, and convolutions accept this layout without a copy.
        # Padded on the CPU, which pads uint8 by reflection.
        padded = F.pad(images.cpu(), [augmentation.shift] * 4, mode="reflect") if augmentation.shift else images
        pixels_NHWC = padded.to(device).permute(0, 2, 3, 1)
        # Mirrored copies behind the images cost memory, but mirroring each batch costs several times as much as the
        # gather.
        copies = (pixels_NHWC, pixels_NHWC.flip(2)) if augmentation.flip else (pixels_NHWC,)
        self.pixels_NHWC = torch.cat(copies).contiguous()
        # One value for each channel of each pixel of a row. Broadcasting over whole rows is faster than over the few
        # channels of each pixel.
        self.mean_row = torch.tensor(normalization.mean, dtype=torch.float32, device=device).repeat(self.width) * 255
        self.std_row = torch.tensor(normalization.std, dtype=torch.float32, device=device).repeat(self.width) * 255

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(
        self, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's share of each full batch of one epoch: images fp32 (b, C, H, W) and labels (b,).

        ``batch_size`` is global. Order and augmentation are drawn for all N images from (seed, epoch) only and are then
        indexed by rank. A global batch therefore holds the same images with the same augmentation for any number of
        workers. The images left over after the last full batch differ between epochs.

        With mixup, the labels are probabilities of the classes, fp32 (b, classes). The partner of an image may be any
        image, also one of another rank's share or one that is left over. It has the augmentation of its own.
        """
        order, draws = self.draw(seed, epoch)
        for start in range(0, len(self) - batch_size + 1, batch_size):
            yield make_batch(self, order[start + rank : start + batch_size : world_size], draws)

    def draw(self, seed: int, epoch: int) -> tuple[Tensor, Draws]:
        """Draw the order of the images (N,) in one epoch and the changes of each image."""
        order, draws = draw_on_host(self, seed, epoch)
        return order.to(self.device), draws.to(self.device)

    def augmented(self, index: Tensor, draws: Draws) -> Tensor:
        """Select images by their indices (b,) and augment them: pixel values in [0, 255], fp32 (b, H, W, C)."""
        distortion, size = self.augmentation.distortion, (self.height, self.width)
        # A view of all windows of the padded images that have the size of an image. One gather then selects and shifts
        # the images.
        windows = self.pixels_NHWC.unfold(1, self.height, 1).unfold(2, self.width, 1).permute(0, 1, 2, 4, 5, 3)
        row, column = draws.corners[:, index]
        images = windows[index + len(self) * draws.mirrored[index], row, column].float()
        points = None if draws.windows is None else window_points(draws.windows[index], size)
        if draws.motions is not None or points is not None:
            motions = None if draws.motions is None else draws.motions[index]
            distorted = distort(images.permute(0, 3, 1, 2), motions, distortion.padding_mode, points)
            if draws.clutter is not None:
                pieces, sources = draws.clutter[index], self._originals().permute(0, 3, 1, 2)
                distorted = add_clutter(distorted, pieces, sources, distortion.frame(*size))
            images = distorted.permute(0, 2, 3, 1).contiguous()
        return images if draws.colors is None else jitter_colors(images, draws.colors[index])

    def ordered(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each image of this rank's share once, in order and without augmentation.

        Each batch holds images fp32 (b, C, H, W) and labels (b,).
        """
        for start in range(rank, len(self), batch_size * world_size):
            share = slice(start, start + batch_size * world_size, world_size)
            pixels = self._originals()[share]
            images = pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            yield self.normalize(images), self.labels[share]

    def pixels(self, chosen: Sequence[int]) -> Tensor:
        """Return the chosen original images, uint8 (E, C, H, W)."""
        return self._originals()[list(chosen)].permute(0, 3, 1, 2)

    def _originals(self) -> Tensor:
        """Return the original images uint8 (N, H, W, C): a view without margins and mirrored copies."""
        margin = self.augmentation.shift
        return self.pixels_NHWC[: len(self), margin : margin + self.height, margin : margin + self.width]

    def normalize(self, images_NHWC: Tensor) -> Tensor:
        """Normalize pixel values in [0, 255], contiguous fp32 (b, H, W, C), in place; return a view (b, C, H, W)."""
        images_NHWC.view(*images_NHWC.shape[:2], -1).sub_(self.mean_row).div_(self.std_row)
        return images_NHWC.permute(0, 3, 1, 2)

    def denormalize(self, images: Tensor) -> Tensor:
        """Convert normalized images (b, C, H, W) to pixel values in [0, 255]."""
        channels = images.shape[1]
        return images * self.std_row[:channels, None, None] + self.mean_row[:channels, None, None]


def make_batch(batches: Batches, index: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return the batch of the images with these indices (b,), as :meth:`Batches.shuffled` yields it."""
    images, labels = batches.augmented(index, draws), batches.labels[index]
    if draws.partners is not None and draws.shares is not None and batches.classes is not None:
        partners, shares = draws.partners[index], draws.shares[index]
        images = batches.augmented(partners, draws).lerp_(images, shares[:, None, None, None])
        labels = mix_labels(labels, batches.labels[partners], shares, batches.classes)
    return batches.normalize(images), labels


def draw_on_host(batches: Batches, seed: int, epoch: int) -> tuple[Tensor, Draws]:
    """Compute :meth:`Batches.draw`, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    order = torch.randperm(len(batches), generator=generator)
    return order, batches.augmentation.draw(len(batches), (batches.height, batches.width), generator)


def derive_seed(*numbers: int) -> int:
    """Derive one 63-bit seed from several numbers. Their order matters: (0, 1) and (1, 0) give different seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
