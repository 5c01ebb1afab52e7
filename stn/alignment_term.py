"""A term of the training objective by which a spatial transformer learns to undo motions of the images.

A moved image shows at the point p what the original shows at T(p), and the rectified image shows the original at
T(A(p)), where A is the sampling map of θ. The term is a robust distance between two such maps, see :func:`distances`:

- ``upright``: T is the augmentation of the image, and T∘A is compared with the frame of the upright original. If parts
  of an image are moved independently (:meth:`stn.batches.Batches.draw_parts`), head i of the transformer undoes the
  motion of part i.
- ``itself``: half of the images are moved once more, by a known T₂, and T₂∘A₂ is compared with A₁. This is the
  covariance constraint of Lenc and Vedaldi, "Learning Covariant Feature Detectors" (2016), section 2. It holds as well
  if all A are followed by the same map. :data:`GAUGE` therefore pulls the mean of A over a batch to the identity.

Maps are compared at points of the output frame, so that all families of transforms can be trained. Distances are
measured in pixels, up to a factor, so that x and y count alike on images that are not square.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stn.alignment import map_by_heads
from stn.augmentation import Augmentation, Draws
from stn.batches import Batches, Epoch
from stn.classifiers import INPUT, SECOND_VIEW, Network
from stn.distortions import distort, map_points, sampling_matrix
from stn.seeds import derive_seed
from stn.settings import Recipe
from stn.transforms.coordinates import pixel_centers

TARGETS = ("itself", "upright")
POINTS = 4  # per side of the grid on which maps are compared
# The second motion of an image: uniform in [-ROTATION, ROTATION], log-uniform in [1 / SCALE, SCALE], and uniform in
# [-SHIFT, SHIFT] for x and y. From rotations by up to 60° θ learned no rotation (LOG.md).
ROTATION, SCALE, SHIFT = math.pi, 1.25, 0.15  # radians, factor, units of half the image
MOVED = 0.5  # share of a batch that is moved once more; all images undo no more, and take longer (LOG.md)
HUBER = 1.0  # distances beyond it count linearly. It is that of two maps of equal size that are turned by 60°
GAUGE = 0.3  # weight of the squared distance of the batch's mean map from the identity
SMALLEST = 1e-4  # smaller maps count as this size


class AlignmentEpoch(NamedTuple):
    """What the term of one epoch reads beside the draws of the images.

    Args:
        weights: of the term in the objective at each step, (steps,).
        motions: the second motion of each draw, (N, 2, 3). None for ``upright``.
    """

    weights: Tensor
    motions: Tensor | None

    def map(self, change: Callable[[Tensor], Tensor]) -> "AlignmentEpoch":
        """Apply a function to all tensors."""
        return AlignmentEpoch(change(self.weights), None if self.motions is None else change(self.motions))

    def tensors(self) -> list[Tensor]:
        """All tensors."""
        return [self.weights] if self.motions is None else [self.weights, self.motions]


class AlignmentTerm:
    """The term for this rank's share of the batches of one epoch at a time, see :meth:`start`.

    Motions are drawn for all N draws of an epoch (:class:`stn.batches.Epoch`) from (seed, epoch), apart from the
    augmentation, and are then indexed by draw.

    Args:
        network: has a transformer in front of the classifier.
        batches: the training images; their augmentation is what ``upright`` undoes.
        recipe: supplies ``alignment``, ``batch_size`` and ``epochs``.
        rank, world_size: those of :meth:`stn.batches.Batches.shuffled`.
        all_reduce: sums a tensor over all ranks, in place, and returns it.

    Attributes:
        total: sum of the distances of the images of the epoch so far, without the weight, a scalar.

    Raises:
        ValueError: ``alignment.to`` is unknown, images are mixed, or ``upright`` is set and images are upended or not
            distorted.
    """

    def __init__(
        self, network: Network, batches: Batches, recipe: Recipe, *,
        rank: int = 0, world_size: int = 1, all_reduce: Callable[[Tensor], Tensor] = lambda x: x,
    ):  # fmt: skip
        assert network.transformer is not None
        self.recipe, self.settings = recipe, recipe.alignment
        if self.settings.to not in TARGETS:
            raise ValueError(f"alignment.to: {self.settings.to!r} is not one of {', '.join(TARGETS)}")
        if batches.augmentation.mixup:
            raise ValueError(f"alignment: given with mixup {batches.augmentation.mixup}; a mixture has no motion")
        if self.settings.to == "upright" and batches.augmentation.distortion.is_identity:
            raise ValueError("alignment.to: upright given, but the images are not distorted")
        if self.settings.to == "upright" and batches.augmentation.vertical_flip:
            raise ValueError("alignment.to: upright given with vertical_flip; upended images are not upright")
        self.transform, self.batches, self.all_reduce = network.transformer.transform, batches, all_reduce
        self.rank, self.world_size, self.batch_size = rank, world_size, recipe.batch_size
        self.moved = math.ceil(MOVED * recipe.batch_size) if self.settings.to == "itself" else 0  # images of a batch
        self.steps = len(batches) // recipe.batch_size
        self.epoch, self.parts = AlignmentEpoch(torch.empty(0), None), list[Epoch]()
        self.points = pixel_centers((POINTS, POINTS), torch.empty(0, device=batches.device))
        self.size, side = (batches.height, batches.width), math.sqrt(batches.width * batches.height)
        self.pixels = torch.tensor([batches.width / side, batches.height / side], device=batches.device)
        self.total = torch.zeros((), device=batches.device)

    def start(self, seed: int, epoch: int) -> "AlignmentTerm":
        """Draw an epoch and start it; returns the term itself."""
        device = self.batches.device
        drawn = draw_alignment(self.batches, self.recipe, seed, epoch).map(lambda tensor: tensor.to(device))
        self.load(drawn, [part.to(device) for part in self.batches.draw_parts(seed, epoch)])
        return self

    def load(self, epoch: AlignmentEpoch, parts: list[Epoch]) -> None:
        """Start an epoch with what it has drawn (also :meth:`stn.batches.Batches.draw_parts`), on the device."""
        self.epoch, self.parts = epoch, parts
        self.total.zero_()

    def second_view(self, step: int | Tensor, images: Tensor) -> Tensor | None:
        """Move the first of the normalized images (b, C, H, W) of a step once more.

        The uncovered area has the padding mode of the distortion.

        Args:
            step: number of the step in this epoch, from 0, also as a tensor (1,).

        Returns:
            The moved images (m, C, H, W), about half of the images; None if the term needs no second view.
        """
        if self.epoch.motions is None:
            return None
        index, channels = self._index(step, self.moved), self.batches.channels
        black = self.batches.normalize(torch.zeros(1, *self.size, channels, device=images.device))
        black = black.repeat(1, images.shape[1] // channels, 1, 1)  # of each part
        mode = self.batches.augmentation.distortion.padding_mode
        return distort(images[: len(index)] - black, self.epoch.motions[index], mode) + black

    def loss(self, step: int | Tensor, thetas: dict[str, Tensor]) -> Tensor:
        """Return the term of a step, summed over this rank's images and weighted, a scalar.

        Args:
            step: number of the step in this epoch, from 0, also as a tensor (1,).
            thetas: θ (b, P) of the images, by place, and θ (m, P) of the second view, see
                :meth:`stn.classifiers.Network.predict`.
        """
        heads = self.transform.heads
        first = map_by_heads(self.transform, thetas[INPUT].float(), self.points)
        gauge, each_counts = first.new_zeros(()), 1.0
        if self.epoch.motions is None:
            draws = [part.draws.select(self._index(step, self.batch_size, part)) for part in self.parts]
            first = trace_by_heads(self.batches.augmentation, first.unflatten(0, (-1, heads)), draws, self.size)
            second = self.batches.augmentation.frame_of_original(self.points, self.size).expand_as(first)
        else:
            gauge, each_counts = self._gauge(first), self.batch_size / self.moved
            motions = self.epoch.motions[self._index(step, self.moved)].repeat_interleave(heads, 0)
            second = map_points(motions, map_by_heads(self.transform, thetas[SECOND_VIEW].float(), self.points))
            first = first[: len(second)]
        distance = distances(first * self.pixels, second * self.pixels).sum() / heads * each_counts
        self.total += distance.detach()
        return _row(self.epoch.weights, step) * (distance + gauge)

    def _gauge(self, mapped: Tensor) -> Tensor:
        """A sum over this rank's images whose gradient is that of the distance of the mean map of all ranks.

        The squared distance of a mean from the identity is not a sum over images, but its derivative by each of them
        is: twice the difference. With constant differences, the mean over the ranks has the right gradient.
        """
        heads = self.transform.heads
        mean = self.all_reduce(mapped.detach().sum(0)) / (self.batch_size * heads)
        difference = (mean - self.points) * self.pixels.square()
        return 2 * GAUGE * (difference * mapped.sum(0) / heads).sum(1).mean()

    def _index(self, step: int | Tensor, count: int, part: Epoch | None = None) -> Tensor:
        """This rank's draws among the first ``count`` images of the batch of a step, of the first or another part."""
        order = (part or self.parts[0]).order[: self.steps * self.batch_size].view(self.steps, self.batch_size)
        return _row(order, step)[self.rank : count : self.world_size]


def trace_by_heads(augmentation: Augmentation, points: Tensor, draws: Sequence[Draws], size: tuple[int, int]) -> Tensor:
    """Trace the points of each head to the original of the part that it undoes, by :meth:`Augmentation.trace`.

    Args:
        points: (b, heads, N, 2).
        draws: of each part of the b images. After the last part, the next head undoes the first one again.
        size: height and width of the images.

    Returns:
        (b · heads, N, 2).
    """
    pairs = zip(points.unbind(1), itertools.cycle(draws))
    return torch.stack([augmentation.trace(own, moved, size) for own, moved in pairs], 1).flatten(0, 1)


def draw_alignment(batches: Batches, recipe: Recipe, seed: int, epoch: int) -> AlignmentEpoch:
    """Draw what the term of an epoch needs beside the draws of the images, on the CPU."""
    settings, steps = recipe.alignment, len(batches) // recipe.batch_size
    rising = settings.warmup * recipe.epochs * steps  # number of steps in which the weight rises
    done = range(epoch * steps + 1, (epoch + 1) * steps + 1)
    weights = torch.tensor([settings.weight * (1.0 if step >= rising else step / rising) for step in done])
    if settings.to == "upright":
        return AlignmentEpoch(weights, None)
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, 0, 1))
    return AlignmentEpoch(weights, draw_motions(len(batches), batches.width / batches.height, generator))


def draw_motions(count: int, aspect: float, generator: torch.Generator) -> Tensor:
    """Draw the second motions of ``count`` images: sampling matrices (count, 2, 3), on the CPU.

    ``aspect`` is width / height of the images.
    """
    uniform = 2 * torch.rand(4, count, generator=generator) - 1
    scale = torch.exp(uniform[1] * math.log(SCALE))
    return sampling_matrix(uniform[0] * ROTATION, scale, uniform[2] * SHIFT, uniform[3] * SHIFT, aspect)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Measure how far two maps of the output frame are apart, (B,).

    The distance is the root mean square of the differences, divided by the geometric mean of the sizes of both mapped
    frames. It does not change if both maps zoom in or out. A distance in the input frame would reward zooming to a
    point. For two similarities with the scales s₁, s₂ and an angle φ between them its square is
    s₁/s₂ + s₂/s₁ - 2 cos φ plus a term for the shift. It is smallest for equal scales at any angle, so that an unknown
    rotation does not make the transformer zoom. The function of Huber ("Robust Estimation of a Location Parameter",
    1964) of this distance limits the effect of images whose motion cannot be seen.

    Args:
        first, second: images of the same points under both maps, (B, N, 2).
    """
    square = (first - second).square().sum(-1).mean(1)
    relative = square / (_size(first) * _size(second))
    # The square root has an infinite slope at 0. It is used beyond HUBER only.
    root = relative.clamp(min=HUBER**2).sqrt()
    return torch.where(relative < HUBER**2, relative / 2, HUBER * (root - HUBER / 2))


def _row(rows: Tensor, step: int | Tensor) -> Tensor:
    """The row of a step, whose number may be a tensor (1,), so that nothing is read from a GPU."""
    return rows[step] if isinstance(step, int) else rows.index_select(0, step)[0]


def _size(mapped: Tensor) -> Tensor:
    """Root mean square distance of the points (B, N, 2) from their center, (B,)."""
    variance = (mapped - mapped.mean(1, keepdim=True)).square().sum(-1).mean(1)
    return variance.clamp(min=SMALLEST**2).sqrt()
