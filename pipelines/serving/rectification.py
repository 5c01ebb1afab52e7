"""Rectification of images by the θ that a registered model predicts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipelines.preparation.images import extend
from pipelines.settings.image_form import Area, ImageForm
from stn.alignment import map_by_heads
from stn.composition import Parallel
from stn.crops import map_to_windows
from stn.distortions import Distortion
from stn.spatial_transformer import Sampler
from stn.transforms import Affine, Projective, ThinPlateSpline, Transform
from stn.transforms.coordinates import pixel_centers


def parse_theta(readable: np.ndarray) -> tuple[Transform, Tensor]:
    """Infer the transform family from the shape of the predicted θ.

    Matrices (B, 2, 3) are affine, and matrices (B, 3, 3) are projective. Points (B, N, 2) are the control points of a
    thin plate spline. For a series of transforms that is neither affine nor projective, the spline is an approximation.
    Parallel heads add a dimension, (B, heads, …), and their θ are concatenated.

    Args:
        readable: θ in the form of :meth:`stn.transforms.Transform.readable`.

    Returns:
        The transform, and θ (B, P) with its parameters.
    """
    values = torch.from_numpy(readable).float()
    heads = values.shape[1] if values.ndim == 4 else 1
    values = values.flatten(0, 1) if values.ndim == 4 else values
    if values.shape[1:] == (2, 3):
        transform, theta = Affine(), values.flatten(1)
    elif values.shape[1:] == (3, 3):
        transform, theta = Projective(), values.flatten(1)[:, :8]
    else:
        transform, theta = ThinPlateSpline(control_points=math.isqrt(values.shape[1])), values.flatten(1)
    if heads > 1:
        return Parallel(transform, heads), theta.reshape(-1, heads * theta.shape[1])
    return transform, theta


class View(NamedTuple):
    """The network's view of an image, in pixels of the image from its upper left corner.

    Args:
        frame: area that the image's form covers. With the fit ``pad`` it extends beyond the image, with ``crop`` the
            image extends beyond it.
        seen: area that the network receives: the frame on its canvas.
        shown: area that the rectified picture shows: the image, on a canvas of its own if there is one.
    """

    frame: Area
    seen: Area
    shown: Area


def view_of(width: int, height: int, form: ImageForm, distortion: Distortion) -> View:
    """Return the network's view of an image of this width and height.

    Args:
        form: what images are converted to.
        distortion: the form is placed on its canvas.
    """
    frame = form.frame(width, height)
    seen = _canvas_around(frame, form.height, form.width, distortion)
    return View(frame, seen, _canvas_around(Area(0, 0, width, height), height, width, distortion))


def _canvas_around(area: Area, height: int, width: int, distortion: Distortion) -> Area:
    """Return the canvas around an area of height × width pixels, which may have been scaled."""
    whole_height, whole_width = distortion.framed(height, width)
    top, left = (whole_height - height) // 2, (whole_width - width) // 2
    y, x = area.height / height, area.width / width
    left, top = area.left - left * x, area.top - top * y
    return Area(left, top, left + whole_width * x, top + whole_height * y)


def to_shown(transform: Transform, theta: Tensor, view: View) -> Tensor:
    """Return the local affine map of θ (B, P) in coordinates of the shown area, as θ (B, 6) of the affine family."""
    matrix = transform.local_matrix(theta.double())
    whole, shift = _window(view.seen, view.shown).split((2, 1), 1)
    # shown → seen → what the network samples there → shown
    linear = whole @ matrix[:, :, :2] @ torch.linalg.inv(whole)
    return torch.cat((linear, whole @ matrix[:, :, 2:] + shift - linear @ shift), 2).flatten(1).float()


def _window(area: Area, whole: Area) -> Tensor:
    """Return the matrix (2, 3) that maps points of an area to points of another one, both spanning [-1, 1]."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    center, right, below = _map_between(area, whole, points)
    return torch.stack((right - center, below - center, center), 1)


def _map_between(area: Area, whole: Area, points: Tensor) -> Tensor:
    """Map points (N, 2) of an area to points of another one, which may lie anywhere; both span [-1, 1]."""
    window = points.new_tensor([[area.top - whole.top, area.left - whole.left, area.height, area.width]])
    return map_to_windows(window, (whole.height, whole.width), points[None])[0]


def rectify(
    image: Image.Image,
    transform: Transform,
    theta: Tensor,
    mean: Sequence[float],
    *,
    padding_mode: str,
    form: ImageForm,
    distortion: Distortion = Distortion(),
) -> Image.Image:
    """Return an image as the transformer samples it, in the size of the image.

    The image is sampled at its full resolution by the sampling map that the network has in its own input. Parts of a
    cropped image that the network did not see are moved too.

    Args:
        image: gray or RGB.
        transform: transform family.
        theta: its parameters (1, P). The results of parallel heads are stacked vertically.
        mean: mean of each channel over the training images, for pixels scaled to [0, 1]. It is subtracted before
            sampling as in training, so the padding mode ``zeros`` pads with the mean color.
        padding_mode: padding mode of the transformer.
        form: what the images of the network are converted to.
        distortion: distortion of the training images. If it has a canvas, the image is placed in the middle of one.
    """
    view = view_of(image.width, image.height, form, distortion)
    pixels, area = _lay_out(image, view, form)
    height, width = round(view.shown.height), round(view.shown.width)
    points = _map_between(view.shown, view.seen, pixel_centers((height, width), torch.empty(0, dtype=torch.float64)))
    mapped = map_by_heads(transform, theta, points.float())
    grid = _map_between(view.seen, area, mapped.flatten(0, 1)).view(1, -1, width, 2)
    offset = torch.tensor(mean).view(1, -1, 1, 1) * 255
    sampled = Sampler(padding_mode)(pixels - offset, grid) + offset
    array = sampled[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)


def _lay_out(image: Image.Image, view: View, form: ImageForm) -> tuple[Tensor, Area]:
    """Return the pixels (1, C, H, W) of all areas of a view, and the box that they cover: whole pixels of the image.

    The frame around the image has the color ``form.fill``. Around both, the canvas is black.
    """
    pixels = np.atleast_3d(np.array(image)).transpose(2, 0, 1)
    inner = _margins(image, view.frame)
    outer = [max(of_side) for of_side in zip(*(_margins(image, box) for box in view), strict=True)]
    filled = torch.from_numpy(extend(pixels, inner, form.fill))[None].float()
    left, top, right, bottom = (outside - inside for outside, inside in zip(outer, inner, strict=True))
    area = Area(-outer[0], -outer[1], image.width + outer[2], image.height + outer[3])
    return F.pad(filled, (left, right, top, bottom)), area


def _margins(image: Image.Image, box: Area) -> tuple[int, int, int, int]:
    """Return by how many whole pixels a box extends beyond an image on the left, top, right and bottom."""
    beyond = -box.left, -box.top, box.right - image.width, box.bottom - image.height
    left, top, right, bottom = (max(0, math.ceil(pixels - 1e-6)) for pixels in beyond)
    return left, top, right, bottom
