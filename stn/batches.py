"""Batches of a data set: shuffled, sharded, augmented and normalized.

There is no DataLoader and no per-image Python code. A batch takes a few operations on whole tensors. Where the images
are kept is the concern of :mod:`stn.pixels`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stn.augmentation import Augmentation, Draws
from stn.clutter import add_clutter
from stn.colors import jitter_colors
from stn.crops import window_points
from stn.distortions import distort
from stn.mixup import mix_labels
from stn.pixels import Pixels, Residency, make_store
from stn.sampling import sample_images
from stn.seeds import derive_seed
from stn.settings import Normalization

Batch = tuple[Tensor, Tensor]
"""Images fp32 (b, C, H, W), and labels (b,) or probabilities of the classes (b, classes)."""
LARGEST_BATCH = 2**24  # values; the activations of a network are several times as large


class Epoch(NamedTuple):
    """What one epoch shows: N draws of an image, each with changes of its own, also where an image is drawn twice.

    Args:
        order: the draws in the order of training, (N,).
        images: index of the image of each draw, (N,).
        draws: the changes of each draw.
    """

    order: Tensor
    images: Tensor
    draws: Draws

    def to(self, device: torch.device) -> "Epoch":
        """Copy all tensors to a device."""
        return self.map(lambda drawn: drawn.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Epoch":
        """Apply a function to all tensors."""
        return Epoch(change(self.order), change(self.images), self.draws.map(change))

    def tensors(self) -> list[Tensor]:
        """All tensors."""
        return [self.order, self.images, *(drawn for drawn in self.draws if drawn is not None)]

    def sources(self, index: Tensor) -> Tensor:
        """Return the indices (n,) of all images that the draws ``index`` (b,) are made from."""
        partners, clutter = self.draws.partners, self.draws.clutter
        if partners is not None:
            index = torch.cat((index, partners[index]))
        images = self.images[index]
        return images if clutter is None else torch.cat((images, clutter[index][..., 0].flatten()))


class Batches:
    """Batches of a data set on ``device``.

    Args:
        images: uint8 (N, C, H, W), or several such tensors, whose images follow one another.
        labels: int64 (N,).
        normalization: mean and standard deviation of each channel.
        device: device of the batches.
        augmentation: applies to :meth:`shuffled`. :meth:`ordered` never augments.
        classes: number of classes. None: one more than the largest label.
        sampler: which images :meth:`shuffled` shows in an epoch, see :func:`stn.sampling.sample_images`.
        residency: where the images are kept. It changes no pixel of any batch.
    """

    def __init__(
        self,
        images: Tensor | Sequence[Tensor],
        labels: Tensor,
        normalization: Normalization,
        device: torch.device,
        augmentation: Augmentation = Augmentation(),
        *,
        classes: int | None = None,
        sampler: str = "uniform",
        residency: Residency = Residency(),
    ):
        self.augmentation = augmentation
        self.device = device
        self.sampler = sampler
        self.labels, self.host_labels = labels.to(device, copy=True), labels.cpu()
        self.classes = int(labels.max()) + 1 if classes is None else classes
        parts = [images] if isinstance(images, Tensor) else list(images)
        self.channels, self.height, self.width = parts[0].shape[1:]
        self.store = make_store(parts, device, residency, margin=augmentation.shift, mirrored=augmentation.flip)
        # A value for each channel of each pixel of a row: broadcasting over rows is faster than over single pixels.
        self.mean_row = torch.tensor(normalization.mean, dtype=torch.float32, device=device).repeat(self.width) * 255
        self.std_row = torch.tensor(normalization.std, dtype=torch.float32, device=device).repeat(self.width) * 255

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(
        self, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's share of each full batch of one epoch: images fp32 (b, C, H, W) and labels (b,).

        ``batch_size`` is global. The N images of an epoch, their order and augmentation are drawn from (seed, epoch)
        only and are then indexed by rank. A global batch is therefore the same for any number of workers. The images
        left over after the last full batch differ between epochs.

        With mixup, the labels are probabilities of the classes, fp32 (b, classes). The partner of an image may be any
        image of the epoch, also one of another rank's share. It has the augmentation of its own.

        Subclasses change :meth:`draw_parts` and :meth:`combine`, which captured steps use as well.
        """
        parts = self.draw_parts(seed, epoch)
        starts = range(0, len(self) - batch_size + 1, batch_size)
        shares = [slice(start + rank, start + batch_size, world_size) for start in starts]
        streams = [self.store.stream([part.order[share] for share in shares], part.sources) for part in parts]
        on_device = [part.to(self.device) for part in parts]
        for share, *pixels in zip(shares, *streams, strict=True):
            yield make_batch(self, pixels, [part.order[share] for part in on_device], on_device)

    def draw(self, seed: int, epoch: int) -> Epoch:
        """Draw the images of one epoch, their order and the changes of each, on the CPU."""
        images = sample_images(self.sampler, self.host_labels, seed, epoch)
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
        order = torch.randperm(len(self), generator=generator)
        augmentation = self.augmentation.in_epoch(epoch)
        return Epoch(order, images, augmentation.draw(len(self), (self.height, self.width), generator))

    def draw_parts(self, seed: int, epoch: int) -> list[Epoch]:
        """Draw what :meth:`shuffled` uses for each part of the images that is moved by itself; here for one part."""
        return [self.draw(seed, epoch)]

    def combine(self, parts: Sequence[Batch]) -> Batch:
        """Join the batches of all parts to one; here there is one part."""
        (part,) = parts
        return part

    def augmented(self, pixels: Pixels, index: Tensor, draws: Draws) -> Tensor:
        """Select images by their indices (b,) and apply the changes of each: in [0, 255], fp32 (b, H, W, C)."""
        distortion, size = self.augmentation.distortion, (self.height, self.width)
        mirrored = draws.mirrored if self.augmentation.flip else None
        images = pixels.windows(pixels.rows(index), draws.corners, mirrored, draws.upended).float()
        points = None if draws.windows is None else window_points(draws.windows, size)
        if draws.motions is not None or points is not None:
            distorted = distort(images.permute(0, 3, 1, 2), draws.motions, distortion.padding_mode, points)
            if draws.clutter is not None:
                source, *corners = draws.clutter.unbind(2)
                pieces = torch.stack((pixels.rows(source), *corners), 2)
                originals = pixels.originals.permute(0, 3, 1, 2)
                distorted = add_clutter(distorted, pieces, originals, distortion.frame(*size))
            images = distorted.permute(0, 2, 3, 1).contiguous()
        return images if draws.colors is None else jitter_colors(images, draws.colors)

    def ordered(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's share in order, not augmented: batches of images fp32 (b, C, H, W) and labels (b,)."""
        starts = range(rank, len(self), batch_size * world_size)
        shares = [slice(start, start + batch_size * world_size, world_size) for start in starts]
        for share, pixels in zip(shares, self.store.stream(shares), strict=True):
            stored = pixels.originals if pixels.index is not None else pixels.originals[share]
            images = stored.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            yield self.normalize(images), self.labels[share]

    def pixels(self, chosen: Sequence[int]) -> Tensor:
        """Return the chosen original images, uint8 (E, C, H, W)."""
        (pixels,) = self.store.stream([index := torch.tensor(list(chosen))])
        return pixels.originals[pixels.rows(index.to(self.device))].permute(0, 3, 1, 2)

    def normalize(self, images_NHWC: Tensor) -> Tensor:
        """Normalize pixel values in [0, 255], contiguous fp32 (b, H, W, C), in place; return a view (b, C, H, W)."""
        images_NHWC.view(*images_NHWC.shape[:2], -1).sub_(self.mean_row).div_(self.std_row)
        return images_NHWC.permute(0, 3, 1, 2)

    def denormalize(self, images: Tensor) -> Tensor:
        """Convert normalized images (b, C, H, W) to pixel values in [0, 255]."""
        channels = images.shape[1]
        return images * self.std_row[:channels, None, None] + self.mean_row[:channels, None, None]


def make_batch(batches: Batches, pixels: Sequence[Pixels], indices: Sequence[Tensor], parts: Sequence[Epoch]) -> Batch:
    """Return a batch as :meth:`Batches.shuffled` yields it, from the draws with the indices (b,) of each part."""
    each = zip(pixels, indices, parts, strict=True)
    return batches.combine([make_part(batches, own, index, drawn) for own, index, drawn in each])


def make_part(batches: Batches, pixels: Pixels, index: Tensor, epoch: Epoch) -> Batch:
    """Return the batch of one part, from its draws with these indices (b,)."""
    draws = epoch.draws
    chosen = epoch.images[index]
    images, labels = batches.augmented(pixels, chosen, draws.select(index)), batches.labels[chosen]
    if draws.partners is not None and draws.shares is not None:
        partners, weights = draws.partners[index], draws.shares[index]
        others = epoch.images[partners]
        mixed = batches.augmented(pixels, others, draws.select(partners))
        images = mixed.lerp_(images, weights[:, None, None, None])
        labels = mix_labels(labels, batches.labels[others], weights, batches.classes)
    return batches.normalize(images), labels


def limit_batch(batches: Batches, batch_size: int) -> int:
    """Lower a batch size for :meth:`Batches.ordered` to one with at most :data:`LARGEST_BATCH` values in its images."""
    return max(1, min(batch_size, LARGEST_BATCH // (batches.height * batches.width * batches.channels)))
