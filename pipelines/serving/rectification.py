"""Images as a registered model's transformer turns them."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stn.composition import Parallel
from stn.distortions import Distortion
from stn.spatial_transformer import Sampler
from stn.transforms import Affine, Projective, ThinPlateSpline, Transform


def family_of(readable: np.ndarray) -> tuple[Transform, Tensor]:
    """The family of a θ that a registered model answered, and it as that family's θ (B, P).

    Matrices (B, 2, 3) are affine and (B, 3, 3) projective; points (B, N, 2) are a thin plate spline's, or stand for a
    series that is neither, which the spline through them comes close to. Heads side by side have one dimension more
    and are told apart by it; their θ are one after another.
    """
    form = torch.from_numpy(readable).float()
    heads = form.shape[1] if form.ndim == 4 else 1
    form = form.flatten(0, 1) if form.ndim == 4 else form
    if form.shape[1:] == (2, 3):
        transform, theta = Affine(), form.flatten(1)
    elif form.shape[1:] == (3, 3):
        transform, theta = Projective(), form.flatten(1)[:, :8]
    else:
        transform, theta = ThinPlateSpline(control_points=math.isqrt(form.shape[1])), form.flatten(1)
    if heads > 1:
        return Parallel(transform, heads), theta.reshape(-1, heads * theta.shape[1])
    return transform, theta


def rectify(
    image: Image.Image,
    transform: Transform,
    theta: Tensor,
    mean: list[float],
    padding_mode: str,
    distortion: Distortion = Distortion(),
) -> Image.Image:
    """An image, gray or RGB, in its own size as the transformer turns it by ``theta`` (1, P), with the distortion's
    canvas around it, where it has one; several heads' below one another.

    Where the transformer looks outside, ``zeros`` means the mean color that training subtracted, as the network saw it.
    """
    pixels = torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1)[None].float()
    pixels = distortion.onto_canvas(pixels)
    middle = torch.tensor(mean).view(1, -1, 1, 1) * 255
    grid = transform(theta, *pixels.shape[-2:])
    sampled = Sampler(padding_mode)(pixels - middle, grid) + middle
    array = sampled[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)
