"""Random distortions of images, which a spatial transformer learns to undo."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stn.clutter import add_clutter, draw_clutter
from stn.transforms import ALIGN_CORNERS, Affine, Projective, ThinPlateSpline, Transform
from stn.transforms.coordinates import constant, is_real

CONTROL_POINTS = 4
CHUNK_IMAGES, CHUNK_VALUES = 1000, 2**24  # that are distorted at once, at most
# The distortions of MNIST in Jaderberg et al. (2015), section 4.1. Lengths are shares of MNIST's 28 pixels, so that
# they apply to images of any size. Three details are choices of this library: the number of control points, the
# possible positions of a scaled digit on the canvas, and the meaning of P. The corners of P are "stretched by an
# amount", which is read as one amount for each corner. With two independent amounts, for x and y, one image in twenty
# contains the horizon or nearly does, and errors are three to four times those of the paper (LOG.md).
PROTOCOLS: dict[str, dict[str, Any]] = {
    "R": {"rotation": 90},
    "RTS": {"rotation": 45, "scale": (0.7, 1.2), "canvas": 42 / 28},
    "P": {"scale": (0.75, 1.0), "corners": 5 / 28},
    "E": {"scale": (0.75, 1.0), "warp": 1.5 / 28},
    "TC": {"canvas": 60 / 28, "clutter": 6},
}


@dataclass(frozen=True)
class Distortion:
    """Random distortion of image content, drawn independently for each image: rotation, scale and shift, then a warp.

    Args:
        rotation: largest rotation in degrees. The angle is uniform in [-rotation, rotation]; positive angles turn the
            content clockwise as displayed.
        scale: smallest and largest scale factor, uniform. A factor below 1 shrinks the content.
        shift: largest shift as a share of the image's width and height, uniform in both directions.
        padding_mode: values in the uncovered area: ``zeros`` (black), ``border`` or ``reflection``.
        corners: standard deviation of the displacement of the corners. Each corner moves away from the center or toward
            it by one normally distributed number, which is a share of the image's width in x and the same share of its
            height in y. The homography through the four corners moves all other points.
        warp: standard deviation of the displacement of a regular 4×4 grid of points, as a share of the image's width
            and height. x and y of each point's source position are normally distributed. The thin plate spline through
            the sixteen points moves all other points.
        canvas: size of a black canvas relative to the image, see :meth:`framed`. The image is placed on the canvas
            uniformly at random such that the scaled image stays inside; ``shift`` has no effect.
        clutter: number of small pieces of other images placed on the image, see :mod:`stn.clutter`.
        placement: share of the room on the canvas in which the image is placed, around the center.
    """

    rotation: float = 0.0
    scale: Sequence[float] = (1.0, 1.0)
    shift: float = 0.0
    padding_mode: str = "zeros"
    corners: float = 0.0
    warp: float = 0.0
    canvas: float = 1.0
    clutter: int = 0
    placement: float = 1.0

    @property
    def is_identity(self) -> bool:
        """Whether the distortion never changes an image."""
        return self == Distortion(scale=self.scale, padding_mode=self.padding_mode) and tuple(self.scale) == (1, 1)

    def framed(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the canvas for images of height × width pixels."""
        return round(height * self.canvas), round(width * self.canvas)

    def onto_canvas(self, images: Tensor) -> Tensor:
        """Place images (N, C, H, W) at the center of black canvases of the size :meth:`framed`.

        Without a canvas the images are unchanged.
        """
        height, width = images.shape[-2:]
        whole_height, whole_width = self.framed(height, width)
        below, right = whole_height - height, whole_width - width
        return F.pad(images, (right // 2, right - right // 2, below // 2, below - below // 2))

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the images on a canvas of height × width pixels."""
        return round(height / self.canvas), round(width / self.canvas)

    def shrunk(self, share: float) -> "Distortion":
        """Return the distortion with this share of its angles, changes of size, shifts and warps, in [0, 1]."""
        low, high = self.scale
        return replace(
            self, rotation=share * self.rotation, scale=(1 + share * (low - 1), 1 + share * (high - 1)),
            shift=share * self.shift, corners=share * self.corners, warp=share * self.warp, placement=share,
        )  # fmt: skip

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw the argument ``drawn`` of :func:`distort` for ``count`` images of height × width pixels.

        With a canvas, height and width are those of the canvas. The result is fp32, on the CPU: sampling matrices
        (count, 2, 3), homographies (count, 3, 3) with ``corners``, or positions of control points (count, 16, 2) with
        ``warp``.
        """
        uniform = torch.rand(4, count, generator=generator)
        angle = (2 * uniform[0] - 1) * math.radians(self.rotation)
        scale = self.scale[0] + uniform[1] * (self.scale[1] - self.scale[0])
        shift_x = (2 * uniform[2] - 1) * self.shift * 2  # the image is 2 units wide
        shift_y = (2 * uniform[3] - 1) * self.shift * 2
        if self.canvas > 1:
            shift_x = self._shift_on_canvas(uniform[2], scale, width)
            shift_y = self._shift_on_canvas(uniform[3], scale, height)
        matrices = sampling_matrix(angle, scale, shift_x, shift_y, aspect=width / height)
        if self.corners > 0:
            moved = _CORNERS * (1 + 2 * self.corners * torch.randn(count, 4, 1, generator=generator))
            return _append_last_row(matrices) @ _homography_to_corners(moved)
        if self.warp > 0:
            points = _spline(matrices).centers_N2
            points = points + 2 * self.warp * torch.randn(count, len(points), 2, generator=generator)
            return Affine().map(matrices.flatten(1), points)
        return matrices

    def _shift_on_canvas(self, uniform: Tensor, scale: Tensor, pixels: int) -> Tensor:
        """Map numbers (B,), uniform in [0, 1), to shifts in units of half the canvas, which is ``pixels`` wide."""
        room = (1 - scale / self.canvas).clamp(min=0) * self.placement
        if self.rotation == 0 and tuple(self.scale) == (1, 1):
            # Shifts of whole pixels copy the image without blurring it.
            most = (room * pixels / 2 + 1e-3).floor()
            return ((2 * most + 1) * uniform - most).floor() * (2 / pixels)
        return (2 * uniform - 1) * room


def make_distortion(protocol: str = "none", padding_mode: str = "zeros", **settings) -> Distortion:
    """Make the distortion of :data:`PROTOCOLS` with this name, or with ``none`` a distortion with these settings.

    A protocol other than ``none`` ignores ``settings``.
    """
    return Distortion(padding_mode=padding_mode, **(settings if protocol == "none" else PROTOCOLS[protocol]))


def sampling_matrix(angle: Tensor, scale: Tensor, shift_x: Tensor, shift_y: Tensor, aspect: float = 1.0) -> Tensor:
    """Return sampling matrices (B, 2, 3) that rotate the content, then scale it, then shift it.

    Sampling maps the output to the input, so the matrices are the inverse of the motion of the content.

    Args:
        angle: rotation in radians, clockwise as displayed, (B,).
        scale: scale factor, (B,).
        shift_x, shift_y: shift in units of half the image, (B,).
        aspect: width / height of the images. It keeps rotations rigid on images that are not square.
    """
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    a, b, c, d = cos, sin / aspect, -sin * aspect, cos
    return torch.stack([a, b, -(a * shift_x + b * shift_y), c, d, -(c * shift_x + d * shift_y)], dim=-1).view(-1, 2, 3)


def distort(images: Tensor, drawn: Tensor | None, padding_mode: str, points: Tensor | None = None) -> Tensor:
    """Resample floating-point images (B, C, H, W) bilinearly.

    Args:
        images: the images.
        drawn: sampling matrices (B, 2, 3), homographies (B, 3, 3) or positions of control points (B, 16, 2). None: the
            images are not distorted.
        padding_mode: values outside the image; not used if the images are not distorted.
        points: points (B, H, W, 2) of the distorted images that are sampled. None: the centers of all pixels.
    """
    if drawn is None:
        assert points is not None
        return F.grid_sample(images, points, padding_mode="border", align_corners=ALIGN_CORNERS)
    if points is None:
        family, theta = _family_of(drawn)
        grid = family(theta, *images.shape[-2:])
    else:
        grid = map_points(drawn, points.flatten(1, 2)).view_as(points)
    return F.grid_sample(images, grid, padding_mode=padding_mode, align_corners=ALIGN_CORNERS)


def map_points(drawn: Tensor, points: Tensor) -> Tensor:
    """Map points (B, N, 2) of distorted images to the points of the images that they show, (B, N, 2).

    ``drawn`` is that of :func:`distort`.
    """
    family, theta = _family_of(drawn)
    return family.map(theta, points)


def _family_of(drawn: Tensor) -> tuple[Transform, Tensor]:
    """Return the family of the argument ``drawn`` of :func:`distort`, and its θ (B, P)."""
    family = _spline(drawn) if drawn.shape[1] > 3 else _PROJECTIVE if drawn.shape[1] == 3 else _AFFINE
    return family, drawn.flatten(1)[:, : len(family.identity)]


def distort_once(images: Tensor, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Distort a whole data set, uint8 (N, C, H, W). If the distortion has a canvas, the images are on it already."""
    return torch.cat(list(distort_in_chunks(images.__getitem__, images.shape, distortion, generator)))


def distort_in_chunks(
    read: Callable[[Tensor], Tensor], shape: Sequence[int], distortion: Distortion, generator: torch.Generator
) -> Iterator[Tensor]:
    """Distort a data set that need not fit into memory; yields the images in order, uint8 (n, C, H, W) each.

    Args:
        read: returns images, uint8 (n, C, H, W), by their indices (n,). If the distortion has a canvas, they are on it.
        shape: that of all images, (N, C, H, W).
        distortion: the distortion; if it is the identity, the images are as they were.
        generator: source of random numbers, which are drawn for all images at once.
    """
    count, channels, height, width = shape
    chunks = torch.arange(count).split(max(1, min(CHUNK_IMAGES, CHUNK_VALUES // (channels * height * width))))
    if distortion.is_identity:
        yield from map(read, chunks)
        return
    frame = distortion.frame(height, width)
    motions = distortion.draw(count, height, width, generator)
    pieces = draw_clutter(count, distortion.clutter, (height, width), frame, generator)
    for index in chunks:
        moved = distort(read(index).float(), motions[index], distortion.padding_mode)
        if distortion.clutter:
            source, *corners = pieces[index].unbind(2)
            sources, rows = source.unique(return_inverse=True)
            moved = add_clutter(moved, torch.stack((rows, *corners), 2), read(sources), frame)
        yield moved.round().to(torch.uint8)


_AFFINE, _PROJECTIVE = Affine(), Projective()
_CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def _homography_to_corners(moved_B42: Tensor) -> Tensor:
    """Return homographies (B, 3, 3) that map four points to the corners of the image.

    The inverse homography has a closed form (Heckbert, "Fundamentals of Texture Mapping and Image Warping", 1989).
    """
    # Heckbert's formula is for the unit square. Double precision, because the corners may be nearly collinear.
    p0, p1, p2, p3 = moved_B42.double().unbind(1)
    (dx1, dy1), (dx2, dy2), (dx3, dy3) = ((p1 - p2).unbind(1), (p3 - p2).unbind(1), (p0 - p1 + p2 - p3).unbind(1))
    determinant = dx1 * dy2 - dx2 * dy1
    g, h = (dx3 * dy2 - dx2 * dy3) / determinant, (dx1 * dy3 - dx3 * dy1) / determinant
    across, down = p1 - p0 + g[:, None] * p1, p3 - p0 + h[:, None] * p3
    of_square = torch.stack((_column(across, g), _column(down, h), _column(p0, torch.ones_like(g))), 2)
    to_square = constant(((0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (0.0, 0.0, 1.0)), of_square)
    back = torch.linalg.inv(of_square @ to_square)
    return (back / back[:, 2:, 2:]).float()


def _column(xy_B2: Tensor, w: Tensor) -> Tensor:
    return torch.cat((xy_B2, w[:, None]), 1)


def _append_last_row(matrices: Tensor) -> Tensor:
    """Append the row (0, 0, 1) to matrices (B, 2, 3)."""
    last_row = constant((((0.0, 0.0, 1.0),),), matrices)
    return torch.cat((matrices, last_row.expand(len(matrices), 1, 3)), 1)


def _spline(like: Tensor) -> ThinPlateSpline:
    return _spline_on(like.device) if is_real(like) else ThinPlateSpline(control_points=CONTROL_POINTS).to(like.device)


@cache
def _spline_on(device: torch.device) -> ThinPlateSpline:
    with torch.inference_mode(False):
        return ThinPlateSpline(control_points=CONTROL_POINTS).to(device)
