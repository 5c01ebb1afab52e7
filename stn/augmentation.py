"""Random changes of the training images: settings, and what is drawn for each image in an epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from stn.clutter import draw_clutter
from stn.colors import draw_factors
from stn.crops import draw_windows, map_to_windows
from stn.distortions import Distortion, map_points
from stn.mixup import draw_partners
from stn.transforms.coordinates import constant


class Draws(NamedTuple):
    """What one epoch changes in each of N images. None: no image is changed in this way.

    Args:
        corners: rows and columns (2, N) that select a window of the padded image.
        mirrored: whether left and right of the image are swapped, bool (N,).
        motions: see :meth:`stn.distortions.Distortion.draw`, (N, …).
        clutter: see :func:`stn.clutter.draw_clutter`, (N, pieces, 5).
        windows: see :func:`stn.crops.draw_windows`, (N, 4).
        colors: see :func:`stn.colors.draw_factors`, (N, 3).
        partners, shares: see :func:`stn.mixup.draw_partners`, (N,).
        upended: whether top and bottom of the image are swapped, bool (N,).
    """

    corners: Tensor
    mirrored: Tensor
    motions: Tensor | None
    clutter: Tensor | None
    windows: Tensor | None
    colors: Tensor | None
    partners: Tensor | None
    shares: Tensor | None
    upended: Tensor | None

    def to(self, device: torch.device) -> "Draws":
        """Copy all tensors to a device."""
        return self.map(lambda drawn: drawn.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        """Apply a function to all tensors."""
        return Draws(*(None if drawn is None else change(drawn) for drawn in self))  # pyright: ignore[reportArgumentType]

    def select(self, index: Tensor) -> "Draws":
        """Select draws by their indices (b,)."""
        corners, *others = self
        return Draws(corners[:, index], *(None if drawn is None else drawn[index] for drawn in others))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images, drawn again in each epoch and applied in this order, except mixup, last.

    Args:
        flip: swap left and right with probability 1/2.
        shift: shift by up to this many whole pixels in each direction. The uncovered area is filled by reflection.
        distortion: see :class:`stn.distortions.Distortion`.
        crop: smallest and largest share of the area that a random window of the distorted image has. The window is
            enlarged to the size of the image, see :mod:`stn.crops`. Distortion and crop resample the image once; the
            clutter of a distortion lies on the result. (1.0, 1.0): no crop.
        color_jitter: largest relative change of brightness, contrast and saturation in [0, 1], see :mod:`stn.colors`.
        mixup: parameter of the Beta distribution of the shares of two mixed images, see :mod:`stn.mixup`. 0: no mixup.
        vertical_flip: swap top and bottom with probability 1/2, independently of ``flip``.
        distortion_ramp: number of epochs in which the distortion grows to its full size, see :meth:`in_epoch`.
    """

    flip: bool = False
    shift: int = 0
    distortion: Distortion = field(default_factory=Distortion)
    crop: Sequence[float] = (1.0, 1.0)
    color_jitter: float = 0.0
    mixup: float = 0.0
    vertical_flip: bool = False
    distortion_ramp: int = 0

    def in_epoch(self, epoch: int) -> "Augmentation":
        """Return what an epoch, counted from 0, is drawn with.

        The share of the distortion grows by the same amount from epoch to epoch. It is 1 from epoch ``distortion_ramp``
        on.
        """
        share = (epoch + 1) / (self.distortion_ramp + 1)
        if share >= 1 or self.distortion.is_identity:
            return self
        return replace(self, distortion=self.distortion.shrunk(share))

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Draw the changes of ``count`` images with this height and width, on the CPU."""
        corners = torch.randint(2 * self.shift + 1, (2, count), generator=generator)
        mirrored = (torch.rand(count, generator=generator) < 0.5) & self.flip
        motions = clutter = windows = colors = partners = shares = upended = None
        if not self.distortion.is_identity:
            motions = self.distortion.draw(count, *size, generator)
        if self.distortion.clutter:
            frame = self.distortion.frame(*size)
            clutter = draw_clutter(count, self.distortion.clutter, size, frame, generator)
        if tuple(self.crop) != (1, 1):
            windows = draw_windows(count, size, self.crop, generator)
        if self.color_jitter:
            colors = draw_factors(count, self.color_jitter, generator)
        if self.vertical_flip:
            upended = torch.rand(count, generator=generator) < 0.5
        if self.mixup:
            partners, shares = draw_partners(count, self.mixup, generator)
        return Draws(corners, mirrored, motions, clutter, windows, colors, partners, shares, upended)

    def trace(self, points: Tensor, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Map points (B, N, 2) of changed images to the points of the originals that they show, (B, N, 2).

        The originals are mirrored and upended where ``draws`` says so. A mirrored original is still upright, an upended
        one is not. Clutter and colors move nothing.

        Args:
            points: coordinates of :mod:`stn.transforms.coordinates`.
            draws: of these B images.
            size: height and width of the images.
        """
        if draws.windows is not None:
            points = map_to_windows(draws.windows, size, points)
        if draws.motions is not None:
            points = map_points(draws.motions, points)
        height, width = size
        pixel = constant(((2 / height,), (2 / width,)), points)
        moved = (draws.corners - self.shift).to(points) * pixel
        return points + moved.flip(0).T[:, None]

    def frame_of_original(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Map points (N, 2) of the frame of an original to points of the image of this height and width, (N, 2).

        Both are the same unless the distortion has a canvas. The original then lies at the center of the canvas, as
        :meth:`stn.distortions.Distortion.onto_canvas` places it.
        """
        window = []
        for whole, pixels in zip(size, self.distortion.frame(*size), strict=True):
            window.append(((whole - pixels) // 2, pixels))
        (top, height), (left, width) = window
        frame = constant(((top, left, height, width),), points)
        return map_to_windows(frame, size, points[None])[0]
