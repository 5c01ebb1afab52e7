"""Measures how much of a known motion of the test images each variant's transformers undo."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pipelines.evaluation.robustness import choose_images, move, resample
from pipelines.outputs.alignment_results import Alignment, Slope, UndoneCurve
from pipelines.outputs.motions import UNDONE_MOTIONS, Motion
from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.runtime.progress import track
from pipelines.settings.params import EvaluateParams
from stn.alignment import Poses, corner_errors, fit_poses, relative_to, slopes
from stn.batches import Batches, limit_batch
from stn.classifiers import Network
from stn.distortions import sampling_matrix
from stn.spatial_transformer import SpatialTransformer
from stn.tf32 import without_tf32
from stn.training import default_device

RESAMPLES = 1000  # bootstrap resamples for the interval of a slope


class Model(Protocol):
    """A trained network and the seed of its training."""

    @property
    def seed(self) -> int: ...

    @property
    def network(self) -> Network: ...


class Quantity(NamedTuple):
    """The quantity of a motion that is regressed.

    Args:
        applied: converts amounts of the motion to the quantity.
        undone: the quantity of the sampling maps of transformers.
        in_units: converts the quantity to the unit of the motion.
    """

    applied: Callable[[Tensor], Tensor]
    undone: Callable[[Poses], Tensor]
    in_units: Callable[[np.ndarray], np.ndarray]


QUANTITIES = {
    "rotation": Quantity(torch.deg2rad, lambda poses: poses.rotation, np.degrees),
    "scale": Quantity(torch.log, lambda poses: poses.log_scale, np.exp),
    # The image is 2 units wide, and `move` shifts along the diagonal.
    "shift": Quantity(lambda share: 2 * share, lambda poses: (poses.shift_x + poses.shift_y) / 2, lambda x: x / 2),
}


class Undone(NamedTuple):
    """Measurements of one model.

    Args:
        amounts: motion → what was undone of each amount, (A, N), as its :class:`Quantity`. Several heads are averaged.
        errors: corner error of two views of each image in pixels, (N,), see :func:`stn.alignment.corner_errors`.
        fixed_errors: the same if θ of the first view is used for both views.
    """

    amounts: Mapping[Motion, Tensor]
    errors: Tensor
    fixed_errors: Tensor


class AlignmentMeasurements(NamedTuple):
    """Measurements of one variant, by training seed."""

    seeds: Mapping[int, Undone]

    def slopes_of(self, seed: int) -> dict[Motion, Tensor]:
        """The slope of each image, (N,), for each motion."""
        return {motion: slopes(_applied(motion), undone) for motion, undone in self.seeds[seed].amounts.items()}

    def undone_of(self, seed: int) -> float:
        """The share of the motion that is undone, see :class:`~pipelines.outputs.alignment_results.Alignment`."""
        undone = self.seeds[seed]
        return float(1 - np.median(undone.errors.numpy()) / np.median(undone.fixed_errors.numpy()))


def measure_alignment(
    models: Mapping[str, Sequence[Model]], test: Labeled, meta: DatasetMeta, settings: EvaluateParams
) -> dict[str, AlignmentMeasurements]:
    """Measure what the transformers of all models undo; variants without a transformer are left out.

    Test images are moved by each amount of :data:`~pipelines.outputs.motions.UNDONE_MOTIONS`, and twice at random by
    motions of all kinds together.

    Args:
        models: variant → its models, on :func:`~stn.training.default_device`.
        settings: batch size, and number of test images to use (``robustness_images``).
    """
    images = choose_images(test, settings.robustness_images).images
    transformers = {
        (variant, model.seed): model.network.transformer
        for variant, trained in models.items()
        for model in trained
        if model.network.transformer is not None
    }
    if not transformers:
        return {}
    views = [_random_motions(len(images), meta, seed) for seed in (1, 2)]
    moved = [(motion, amount) for motion in UNDONE_MOTIONS for amount in motion.amounts]
    thetas: dict[tuple[str, int], list[Tensor]] = {key: [] for key in transformers}
    work = track("alignment", [*moved, *views], len(moved) + len(views))
    for item in work:
        pixels = move(images, *item) if isinstance(item, tuple) else resample(images, item)
        batches = meta.ordered_batches(Labeled(pixels, torch.zeros(len(images), dtype=torch.long)), default_device())
        for key, transformer in transformers.items():
            thetas[key].append(_predict_theta(transformer, batches, settings.batch_size))
    size = meta.image_shape[1:]
    measured: dict[str, dict[int, Undone]] = {}
    for (variant, seed), transformer in transformers.items():
        *of_amounts, first, second = thetas[variant, seed]
        transform, output_size = transformer.transform.cpu(), transformer.output_size or size
        poses = [fit_poses(transform, theta, size, output_size) for theta in of_amounts]
        amounts = {}
        for motion in UNDONE_MOTIONS:
            count = len(motion.amounts)
            amounts[motion], poses = _undone(motion, poses[:count], transform.heads), poses[count:]
        errors, fixed_errors = (
            corner_errors(transform, (first, theta), (views[0], views[1]), size) for theta in (second, first)
        )
        measured.setdefault(variant, {})[seed] = Undone(amounts, errors, fixed_errors)
        transformer.transform.to(default_device())
    return {variant: AlignmentMeasurements(seeds) for variant, seeds in measured.items()}


def summarize(measurements: AlignmentMeasurements, confidence: float) -> Alignment:
    """Take medians over images and training seeds. The intervals are percentiles of a bootstrap over both."""
    by_seed = [measurements.slopes_of(seed) for seed in measurements.seeds]
    errors = torch.stack([undone.errors for undone in measurements.seeds.values()]).numpy()
    fixed = torch.stack([undone.fixed_errors for undone in measurements.seeds.values()]).numpy()
    return Alignment(
        slopes={
            motion.name: _median_slope(torch.stack([slopes_[motion] for slopes_ in by_seed]).numpy(), confidence)
            for motion in UNDONE_MOTIONS
        },
        corner_error=float(np.median(errors)),
        corner_error_90=float(np.quantile(errors, 0.9)),
        fixed_error=float(np.median(fixed)),
        fixed_error_90=float(np.quantile(fixed, 0.9)),
        undone=float(1 - np.median(errors) / np.median(fixed)),
    )


def undone_curve(motion: Motion, measurements: AlignmentMeasurements) -> UndoneCurve:
    """What is undone at each amount, in the unit of the motion, over the images of all training seeds."""
    values = torch.cat([undone.amounts[motion] for undone in measurements.seeds.values()], 1).numpy()
    curves = np.quantile(values, (0.5, 0.1, 0.9), axis=1)
    return UndoneCurve(*(QUANTITIES[motion.name].in_units(curve) for curve in curves))


@torch.inference_mode()
@without_tf32()
def _predict_theta(transformer: SpatialTransformer, batches: Batches, batch_size: int) -> Tensor:
    """θ fp64 (N, P) of all images, on the CPU."""
    transformer.eval()
    return torch.cat(
        [transformer.theta(images).cpu().double() for images, _ in batches.ordered(limit_batch(batches, batch_size))]
    )


def _applied(motion: Motion) -> Tensor:
    return QUANTITIES[motion.name].applied(torch.tensor(motion.amounts, dtype=torch.float64))


def _undone(motion: Motion, poses: Sequence[Poses], heads: int) -> Tensor:
    """What was undone at each amount, (A, N), relative to the unmoved image, as the mean over the heads."""
    values = torch.stack([QUANTITIES[motion.name].undone(of_amount) for of_amount in poses])
    return relative_to(values, motion.amounts.index(motion.still), heads, is_angle=motion.name == "rotation")


def _median_slope(by_seed: np.ndarray, confidence: float) -> Slope:
    """Median of slopes (S, N) with the interval of a bootstrap over seeds and images."""
    generator = np.random.default_rng(0)
    seeds, images = by_seed.shape
    medians = [
        np.median(by_seed[generator.integers(seeds, size=seeds)][:, generator.integers(images, size=images)])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(medians, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Slope(float(np.median(by_seed)), float(low), float(high), float(by_seed.mean()))


def _random_motions(count: int, meta: DatasetMeta, seed: int) -> Tensor:
    """Draw sampling matrices (count, 2, 3): rotations, scales and shifts, uniform in the ranges of the motions."""
    uniform = torch.rand(4, count, generator=torch.Generator().manual_seed(seed))
    rotation, scale, shift = UNDONE_MOTIONS
    ranges = (rotation.amounts, scale.amounts, shift.amounts, shift.amounts)
    angle, factor, x, y = (
        amounts[0] + values * (amounts[-1] - amounts[0]) for values, amounts in zip(uniform, ranges, strict=True)
    )
    height, width = meta.image_shape[1:]
    return sampling_matrix(torch.deg2rad(angle), factor, 2 * x, 2 * y, aspect=width / height)
