"""Rectification of images by the θ that a registered model predicts."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stn.composition import Parallel
from stn.distortions import Distortion
from stn.spatial_transformer import Sampler
from stn.transforms import Affine, Projective, ThinPlateSpline, Transform


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


def rectify(
    image: Image.Image,
    transform: Transform,
    theta: Tensor,
    mean: Sequence[float],
    *,
    padding_mode: str,
    distortion: Distortion = Distortion(),
) -> Image.Image:
    """Return an image as the transformer samples it, in the size of the image.

    Args:
        image: gray or RGB.
        transform: transform family.
        theta: its parameters (1, P). The results of parallel heads are stacked vertically.
        mean: mean of each channel over the training images, for pixels scaled to [0, 1]. It is subtracted before
            sampling as in training, so the padding mode ``zeros`` pads with the mean color.
        padding_mode: padding mode of the transformer.
        distortion: distortion of the training images. If it has a canvas, the image is placed in the middle of one.
    """
    pixels = torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1)[None].float()
    pixels = distortion.onto_canvas(pixels)
    offset = torch.tensor(mean).view(1, -1, 1, 1) * 255
    grid = transform(theta, *pixels.shape[-2:])
    sampled = Sampler(padding_mode)(pixels - offset, grid) + offset
    array = sampled[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)
