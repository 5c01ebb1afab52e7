"""Watches θ during a training: whether there is trouble, and how much of known motions it undoes."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stn.alignment import fit_poses, relative_to, slopes
from stn.batches import Batches
from stn.classifiers import Network
from stn.distortions import distort, sampling_matrix
from stn.spatial_transformer import SpatialTransformer
from stn.tf32 import without_tf32
from stn.theta_trouble import mirrored, one_color, spread

# The largest motions of the stage evaluate, pipelines/outputs/motions.py.
ROTATION, SCALE, SHIFT = math.radians(30), 1.25, 0.2  # radians, factor, units of half the image
# (rotation, scale, shift in x and y) of each view. Between the two views of a motion the images do not move.
STILL = (0.0, 1.0, 0.0)
VIEWS = (
    (-ROTATION, 1.0, 0.0), STILL, (ROTATION, 1.0, 0.0), (0.0, 1 / SCALE, 0.0), (0.0, SCALE, 0.0),
    (0.0, 1.0, -SHIFT), (0.0, 1.0, SHIFT),
)  # fmt: skip
# Name of the motion → its largest amount, and the views with minus this amount, none, and this amount.
MOTIONS = {"rotation": (ROTATION, (0, 1, 2)), "scale": (math.log(SCALE), (3, 1, 4)), "shift": (SHIFT, (5, 1, 6))}


class ThetaWatch:
    """Measures θ of a transformer after each epoch. It draws no random numbers and changes no state of the network.

    Args:
        transformer: the transformer that is trained.
        images: images on its device; they are only read.
        watched: indices (E,) of a few images, which are moved by :data:`VIEWS`.
    """

    def __init__(self, transformer: SpatialTransformer, images: Batches, watched: Sequence[int]):
        self.count, self.input_size = len(watched), (images.height, images.width)
        self.output_size = transformer.output_size or self.input_size
        # On the CPU, because the measurements take many operations on few numbers.
        self.transform = copy.deepcopy(transformer.transform).cpu()
        self.views = _move(images, watched)

    @torch.inference_mode()
    @without_tf32()
    def measure(self, network: Network, theta: Tensor) -> dict[str, float]:
        """Return the metrics of one epoch.

        - ``theta_mirrored``, ``theta_spread``: of all images, see :mod:`stn.theta_trouble`. None is left out.
        - ``theta_one_color``: of the watched images.
        - ``theta_undone_<motion>``: the median slope of θ on motions of the watched images, see :mod:`stn.alignment`.

        Args:
            network: the network with the weights of this epoch, in evaluation mode.
            theta: θ (N, P) of all images, on the CPU.
        """
        transformer = network.transformer
        assert transformer is not None
        of_views = transformer.theta(self.views)
        still = slice(self.count, 2 * self.count)
        rectified = transformer.resample(self.views[still], of_views[still])
        differs = spread(self.transform, theta)
        return ({} if differs is None else {"theta_spread": differs}) | {
            "theta_mirrored": mirrored(self.transform, theta),
            "theta_one_color": one_color(self.views[still], rectified, self.transform.heads),
            **{f"theta_undone_{motion}": slope for motion, slope in self._undone(of_views.cpu()).items()},
        }

    def _undone(self, theta: Tensor) -> dict[str, float]:
        """Median slope over the watched images, from θ of all views, (views · E, P)."""
        poses = fit_poses(self.transform, theta, self.input_size, self.output_size)
        quantities = {
            "rotation": poses.rotation,
            "scale": poses.log_scale,
            "shift": (poses.shift_x + poses.shift_y) / 2,
        }
        undone = {}
        for motion, (amount, views) in MOTIONS.items():
            values = quantities[motion].view(len(VIEWS), -1)[list(views)]
            turned = relative_to(values, 1, self.transform.heads, is_angle=motion == "rotation")
            undone[motion] = slopes(torch.tensor([-amount, 0.0, amount]), turned).quantile(0.5).item()
        return undone


def watch_theta(network: Network, images: Batches, watched: Sequence[int]) -> ThetaWatch | None:
    """Return the :class:`ThetaWatch` of a network's transformer; None without a transformer."""
    return None if network.transformer is None else ThetaWatch(network.transformer, images, watched)


def _move(images: Batches, watched: Sequence[int]) -> Tensor:
    """Return the normalized views (views · E, C, H, W) of the watched images. Uncovered pixels are black."""
    height, width = images.height, images.width
    pixels = images.pixels(watched).float()
    angle, scale, shift = torch.tensor(VIEWS, device=images.device).unbind(1)
    matrices = sampling_matrix(angle, scale, shift, shift, aspect=width / height).repeat_interleave(len(pixels), 0)
    moved = distort(pixels.repeat(len(VIEWS), 1, 1, 1), matrices, "zeros").round().clamp(0, 255)
    return images.normalize(moved.permute(0, 2, 3, 1).contiguous())
