"""Where the images of a data set are kept, and how the pixels of a batch reach the device.

All images are on the device (:class:`DeviceStore`), or each batch is read from where the images are, such as a
memory-mapped file that is larger than the memory (:class:`HostStore`). Both give the same pixels bit for bit.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

READERS = 4  # threads that read one batch
AHEAD = 2  # batches that are read while another one is in use
CHUNK_BYTES = 2**25  # of images that are copied at once

Step = Tensor | slice
"""The images of a batch: their indices int64 (b,) on the CPU, or a slice of all images."""


class Residency(NamedTuple):
    """Where the images of a data set are kept.

    Args:
        on_device: all images are copied to the device. False: they stay where they are, and only batches are copied.
        mirrored: mirrored copies are kept on the device, too. A batch is then cut faster, from twice the memory.
    """

    on_device: bool = True
    mirrored: bool = True


class Pixels:
    """Images on the device.

    Args:
        stored: uint8 (N or 2 N, H + 2 margin, W + 2 margin, C), a result of :func:`pack`.
        margin: width of the border that is filled by reflection.
        mirrored: a mirrored copy of each image follows behind the images.
        index: the sorted indices (N,) of the images in the whole data set. None: they are the whole data set.
    """

    def __init__(self, stored: Tensor, margin: int = 0, *, mirrored: bool = False, index: Tensor | None = None):
        self.stored, self.margin, self.mirrored, self.index = stored, margin, mirrored, index
        self.count = len(stored) // 2 if mirrored else len(stored)
        self.height, self.width = (pixels - 2 * margin for pixels in stored.shape[1:3])

    @property
    def originals(self) -> Tensor:
        """A view of the images without margins and mirrored copies, uint8 (N, H, W, C)."""
        margin = self.margin
        return self.stored[: self.count, margin : margin + self.height, margin : margin + self.width]

    def rows(self, index: Tensor) -> Tensor:
        """The positions of images in :attr:`originals` by their indices in the whole data set; both of any shape."""
        return index if self.index is None else torch.searchsorted(self.index, index.contiguous())

    def windows(self, rows: Tensor, corners: Tensor, mirrored: Tensor | None, upended: Tensor | None = None) -> Tensor:
        """Cut a window of the size of an image from each image with its margin; returns uint8 (b, H, W, C).

        Args:
            rows: positions (b,) of the images.
            corners: row and column (2, b) of each window's first pixel, in the changed image where it is changed.
            mirrored: whether left and right of the image are swapped, bool (b,). None: of no image.
            upended: whether its top and bottom are swapped, bool (b,). None: of no image.
        """
        top, left = corners
        if mirrored is not None and self.mirrored:
            rows, mirrored = rows + self.count * mirrored, None
        elif mirrored is not None:
            left = torch.where(mirrored, 2 * self.margin - left, left)
        if upended is not None:
            top = torch.where(upended, 2 * self.margin - top, top)
        _, tall, wide, channels = self.stored.shape
        # One gather selects and shifts the images. Its items are lines of pixels, which lie together in memory.
        lines = self.stored.view(-1).unfold(0, self.width * channels, 1)
        first_line = ((rows * tall + top) * wide + left) * channels
        line = torch.arange(self.height, device=rows.device)
        if upended is not None:
            line = torch.where(upended[:, None], self.height - 1 - line, line)
        index = first_line[:, None] + line * (wide * channels)
        images = lines.index_select(0, index.flatten()).view(-1, self.height, self.width, channels)
        return images if mirrored is None else torch.where(mirrored[:, None, None, None], images.flip(2), images)


def pack(parts: Sequence[Tensor], device: torch.device, margin: int = 0, *, mirrored: bool = False) -> Tensor:
    """Copy images to the device, in the form from which :class:`Pixels` cuts its windows.

    Channels are last: the channels of a pixel are read together, and convolutions accept this layout without a copy.

    Args:
        parts: uint8 (N, C, H, W) each; the images of all parts follow one another.
        device, margin, mirrored: see :class:`Pixels`.
    """
    count = sum(map(len, parts))
    channels, *size = parts[0].shape[1:]
    height, width = (pixels + 2 * margin for pixels in size)
    stored = torch.empty((1 + mirrored) * count, height, width, channels, dtype=torch.uint8, device=device)
    start = 0
    for images in (chunk for part in parts for chunk in part.split(max(1, CHUNK_BYTES // part[0].numel()))):
        packed = stored[start : start + len(images)]
        _copy_channels_last(images, packed[:, margin : height - margin, margin : width - margin])
        for side in (packed, packed.transpose(1, 2)):  # first the lines above and below, then whole columns
            end = side.shape[1] - margin
            for i in range(1, margin + 1):
                side[:, margin - i], side[:, end - 1 + i] = side[:, margin + i], side[:, end - 1 - i]
        if mirrored:
            stored[count + start : count + start + len(images)] = packed.flip(2)
        start += len(images)
    return stored


def _copy_channels_last(images: Tensor, target: Tensor) -> None:
    """Copy uint8 images (n, C, H, W) to ``target`` (n, H, W, C) on any device."""
    if target.device.type == "cpu":  # NumPy copies one channel three times as fast as torch copies all
        for channel, pixels in enumerate(images.numpy().swapaxes(0, 1)):
            target.numpy()[..., channel] = pixels
    else:
        target.copy_(images.to(target.device).permute(0, 2, 3, 1))


class PixelStore(Protocol):
    """Gives the pixels of one batch after another."""

    def stream(self, steps: Sequence[Step], needed: Callable[[Tensor], Tensor] | None = None) -> Iterator[Pixels]:
        """Yield, for each step, :class:`Pixels` with at least the images of that step.

        Args:
            steps: the images of each batch.
            needed: returns the indices (n,) of all images that a batch is made from, by the indices (b,) of its step.
                None: those of the step.
        """
        ...


class DeviceStore:
    """All images are on the device; the arguments are those of :func:`pack`."""

    def __init__(self, parts: Sequence[Tensor], device: torch.device, margin: int = 0, *, mirrored: bool = False):
        self.pixels = Pixels(pack(parts, device, margin, mirrored=mirrored), margin, mirrored=mirrored)

    def stream(self, steps: Sequence[Step], needed: Callable[[Tensor], Tensor] | None = None) -> Iterator[Pixels]:
        """Yield all images for each step."""
        return (self.pixels for _ in steps)


class HostStore:
    """The images stay where they are. Threads read the next batches, in ascending order, while one is in use.

    On GPUs a batch is read into pinned memory and copied by a stream of its own, beside the computation.

    Args:
        parts, device, margin: see :func:`pack`.
    """

    def __init__(self, parts: Sequence[Tensor], device: torch.device, margin: int = 0):
        self.parts, self.device, self.margin = parts, device, margin
        self.starts = list(accumulate(map(len, parts), initial=0))
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def stream(self, steps: Sequence[Step], needed: Callable[[Tensor], Tensor] | None = None) -> Iterator[Pixels]:
        """Yield the images of each step, which are read ahead."""
        with ThreadPoolExecutor(AHEAD, "batches") as batches, ThreadPoolExecutor(READERS, "readers") as readers:
            waiting: deque[Future[tuple[Pixels, torch.cuda.Event | None]]] = deque()
            try:
                for step in steps:
                    waiting.append(batches.submit(self._read, step, needed, readers))
                    if len(waiting) > AHEAD:
                        yield self._receive(waiting.popleft())
                while waiting:
                    yield self._receive(waiting.popleft())
            finally:
                for future in waiting:
                    future.cancel()

    def _receive(self, future: Future) -> Pixels:
        pixels, copied = future.result()
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            for tensor in (pixels.stored, pixels.index):
                tensor.record_stream(stream)
        return pixels

    def _read(
        self, step: Step, needed: Callable[[Tensor], Tensor] | None, readers: ThreadPoolExecutor
    ) -> tuple[Pixels, "torch.cuda.Event | None"]:
        """Read the images of a step; on GPUs also return the event after which they are on the device."""
        if isinstance(step, slice):
            index = torch.arange(*step.indices(self.starts[-1]))
        else:
            index = (step if needed is None else needed(step)).unique()
        images = self._gather(index, readers)
        if self.copies is None:
            return self._pack(step, images, index), None
        with torch.cuda.stream(self.copies):
            index = index.pin_memory().to(self.device, non_blocking=True)
            pixels = self._pack(step, images.to(self.device, non_blocking=True), index)
            copied = torch.cuda.Event()
            copied.record()
        return pixels, copied

    def _pack(self, step: Step, images: Tensor, index: Tensor) -> Pixels:
        """Images (n, C, H, W) on the device. Those of a slice are not cut and need no copy."""
        if isinstance(step, slice):
            return Pixels(images.permute(0, 2, 3, 1), index=index)
        return Pixels(pack([images], self.device, self.margin), self.margin, index=index)

    def _gather(self, index: Tensor, readers: ThreadPoolExecutor) -> Tensor:
        """Read images by their sorted indices (n,): uint8 (n, C, H, W), in pinned memory for GPUs."""
        images = torch.empty(
            len(index), *self.parts[0].shape[1:], dtype=torch.uint8, pin_memory=self.copies is not None
        )
        target, wanted = images.numpy(), index.numpy()
        bounds = np.searchsorted(wanted, self.starts).tolist()  # where each part begins among the wanted images
        share = -(-len(index) // READERS)
        jobs = []
        for number, part in enumerate(self.parts):
            source, first = part.numpy(), self.starts[number]
            for low in range(bounds[number], bounds[number + 1], share):
                high = min(low + share, bounds[number + 1])
                # `clip` checks no index, and unlike `raise` writes into the target without a copy.
                jobs.append(readers.submit(np.take, source, wanted[low:high] - first, 0, target[low:high], mode="clip"))
        for job in jobs:
            job.result()
        return images


def make_store(
    parts: Sequence[Tensor], device: torch.device, residency: Residency, *, margin: int, mirrored: bool
) -> PixelStore:
    """Make the store that ``residency`` asks for; ``mirrored``: mirrored images are used at all."""
    if residency.on_device:
        return DeviceStore(parts, device, margin, mirrored=mirrored and residency.mirrored)
    return HostStore(parts, device, margin)


def device_bytes(count: int, shape: Sequence[int], margin: int, mirrored: bool) -> int:
    """The bytes that ``count`` images of a shape (C, H, W) need on the device."""
    channels, height, width = shape
    return (1 + mirrored) * count * channels * (height + 2 * margin) * (width + 2 * margin)
