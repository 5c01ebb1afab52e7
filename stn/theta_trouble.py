"""Trouble: signs in θ that a spatial transformer no longer shows the classifier what it should.

Each head of a :class:`~stn.composition.Parallel` transform is measured by itself, and the worst head counts.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

from stn.composition import Parallel
from stn.transforms import Transform

MOST = 0.5  # share of the grid or of the images above which there is trouble
SAME = 1e-3  # a smaller spread of θ counts as the same θ for all images: 1/60 of a pixel in an image of 32 pixels
VARIED = 10 * SAME  # θ with a larger spread has differed between images
FLAT = 0.01  # an image has one color if its standard deviation is below this share of the input's


class Trouble(StrEnum):
    """The kinds of trouble. The values are tags in MLflow."""

    OUTSIDE = "outside"
    CONSTANT = "constant"
    MIRRORED = "mirrored"
    ONE_COLOR = "one color"

    @property
    def description(self) -> str:
        """What is wrong, as a sentence without a period."""
        return {
            Trouble.OUTSIDE: "θ looks outside the image for more than half of its grid",
            Trouble.CONSTANT: "θ is the same for all images",
            Trouble.MIRRORED: "θ mirrors more than half of the images",
            Trouble.ONE_COLOR: "more than half of the rectified images have one color",
        }[self]


class Symptoms(NamedTuple):
    """Measurements of θ on some images that show trouble.

    Args:
        outside: mean share of the grid outside the image, in [0, 1].
        mirrored: share of the images that are mirrored, in [0, 1].
        one_color: share of the images that are of one color after the transformer and not before, in [0, 1].
        spread: see :func:`spread`; None: not measured.
    """

    outside: float
    mirrored: float
    one_color: float
    spread: float | None

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> "Symptoms | None":
        """Read the symptoms from the metrics of an epoch: ``theta_<symptom>``; None without a transformer.

        ``theta_outside`` has one value for each of several heads, ``theta_outside_1`` and so on.
        """
        if "theta_mirrored" not in metrics:
            return None
        outside = max(value for name, value in metrics.items() if name.startswith("theta_outside"))
        return cls(outside, metrics["theta_mirrored"], metrics["theta_one_color"], metrics.get("theta_spread"))

    @property
    def trouble(self) -> list[Trouble]:
        """The kinds of trouble that these measurements show."""
        signs = {
            Trouble.OUTSIDE: self.outside > MOST,
            Trouble.CONSTANT: self.spread is not None and self.spread < SAME,
            Trouble.MIRRORED: self.mirrored > MOST,
            Trouble.ONE_COLOR: self.one_color > MOST,
        }
        return [kind for kind, found in signs.items() if found]


def first_epochs(history: Sequence[Mapping[str, float]], epochs: int) -> dict[Trouble, int]:
    """Find the epoch, from 1, in which each kind of trouble was seen first.

    Networks start at the identity, and a penalty can keep θ there for a while. The same θ for all images is therefore
    trouble only after the last epoch, or if θ has differed between images before (:data:`VARIED`).

    Args:
        history: metrics of each finished epoch.
        epochs: number of epochs of the whole training.
    """
    found: dict[Trouble, int] = {}
    has_varied = False
    for epoch, metrics in enumerate(history, 1):
        symptoms = Symptoms.from_metrics(metrics)
        if symptoms is None:
            continue
        has_varied |= (symptoms.spread or 0.0) > VARIED
        for kind in symptoms.trouble:
            if kind is not Trouble.CONSTANT or has_varied or epoch == epochs:
                found.setdefault(kind, epoch)
    return found


def spread(transform: Transform, theta: Tensor) -> float | None:
    """Measure how much θ (N, P) differs between images: the largest standard deviation of a parameter.

    The unit is half the image, or the bound of the transform if it is smaller: a transformer that may move little is
    not taken for one that does not react. None for a single image, and for bounds below :data:`VARIED`: they are meant
    to hold θ at the identity.
    """
    bounds = [part.bound for part in transform.modules() if isinstance(part, Transform) and part.bound is not None]
    unit = min([1.0, *bounds])
    if len(theta) < 2 or unit < VARIED:
        return None
    return theta.double().std(0, correction=0).max().item() / unit


def mirrored(transform: Transform, theta: Tensor) -> float:
    """Return the share of the images that θ (N, P) mirrors: those with a negative determinant at the center."""
    heads = transform.heads
    if isinstance(transform, Parallel):
        transform, theta = transform.transform, transform.split_heads(theta)
    determinants = torch.linalg.det(transform.local_matrix(theta.float())[:, :, :-1])
    return (determinants < 0).view(-1, heads).double().mean(0).max().item()


def one_color(images: Tensor, rectified: Tensor, heads: int) -> float:
    """Return the share of the images that are of one color after the transformer and were not before.

    Args:
        images: input of the transformer, (N, C, H, W).
        rectified: rectified images, (N, C, heads · h, w), heads stacked vertically.
        heads: number of heads.
    """
    before = images.double().std((2, 3), correction=0).amax(1)
    after = rectified.double().unflatten(2, (heads, -1)).std((3, 4), correction=0).amax(1)
    return (after < FLAT * before[:, None]).double().mean(0).max().item()
