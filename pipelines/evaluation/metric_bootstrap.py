"""Paired bootstrap over images of the difference of two models in balanced accuracy or macro-F1."""

from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.sparse import csr_array

from pipelines.settings.metric import Metric
from pipelines.settings.params import EvaluateParams
from stn.class_scores import class_scores


class BootstrapDifference(NamedTuple):
    """Difference of a metric, its confidence interval, and how the differences of the resamples lie around 0.

    Args:
        difference: metric of the second model minus that of the first, in [-1, 1].
        low, high: percentile interval.
        share_at_most_0, share_at_least_0: shares of the resamples, in (0, 1]; the images themselves count as one
            resample without a difference, so that no share is 0.
    """

    difference: float
    low: float
    high: float
    share_at_most_0: float
    share_at_least_0: float


def bootstrap_difference(
    truth: np.ndarray, first: np.ndarray, second: np.ndarray, settings: EvaluateParams
) -> BootstrapDifference:
    """Resample the images and compare two models on each resample.

    A class without images in a resample is left out of the means of both models there.

    Args:
        truth: actual labels (N,).
        first, second: labels (N,) predicted by each model.
        settings: metric, number of resamples and confidence level.
    """
    # Images with the same labels and predictions are interchangeable: a resample is the number of images of each kind.
    kinds, kind_of_image = np.unique(np.stack((truth, first, second)), axis=1, return_inverse=True)
    kind_of_image = kind_of_image.ravel()
    scores = KindScores(kinds, settings.metric)

    def difference(sample: np.ndarray, axis: int) -> np.ndarray:
        return scores.difference(_count(sample, kinds.shape[1]))

    resampled = stats.bootstrap(
        (kind_of_image,), difference, n_resamples=settings.resamples, confidence_level=settings.confidence,
        method="percentile", batch=max(1, 10_000_000 // len(truth)), rng=np.random.default_rng(0), vectorized=True,
    )  # fmt: skip
    differences = resampled.bootstrap_distribution
    low, high = resampled.confidence_interval
    at_most, at_least = (
        (1 + int(beyond.sum())) / (1 + len(differences)) for beyond in (differences <= 0, differences >= 0)
    )
    observed = float(difference(kind_of_image, axis=-1)[0])
    return BootstrapDifference(observed, float(low), float(high), at_most, at_least)


def _count(sample: np.ndarray, kinds: int) -> np.ndarray:
    """Count the images of each kind (R, kinds) in samples (R, N) or in one sample (N,)."""
    sample = np.atleast_2d(sample)
    rows = np.arange(len(sample))[:, None]
    return np.bincount((sample + kinds * rows).ravel(), minlength=kinds * len(sample)).reshape(len(sample), kinds)


class KindScores:
    """A metric of two models, from the number of images of each kind.

    Args:
        kinds: label, prediction of the first and of the second model of each kind, (3, U).
        metric: balanced accuracy or macro-F1.
    """

    def __init__(self, kinds: np.ndarray, metric: Metric):
        assert metric != Metric.ACCURACY
        self.kinds, self.metric, self.classes = kinds, metric, int(kinds.max()) + 1

    def difference(self, counts: np.ndarray) -> np.ndarray:
        """Metric of the second model minus that of the first, (R,), from the images of each kind (R, U)."""
        first, second = (self._score(counts, predicted) for predicted in self.kinds[1:])
        return second - first

    def _score(self, counts: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        truth = self.kinds[0]
        parts = (self._by_class(counts * (predicted == truth), truth), self._by_class(counts, truth),
                 self._by_class(counts, predicted))  # fmt: skip
        scores = class_scores(torch.from_numpy(np.stack(parts).astype(float)))
        values = scores.recall if self.metric == Metric.BALANCED_ACCURACY else scores.f1
        return values.nanmean(-1).numpy()

    def _by_class(self, counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Add up the columns of counts (R, U) that have the same label: (R, classes)."""
        kinds = len(labels)
        member = csr_array((np.ones(kinds, dtype=int), (labels, np.arange(kinds))), shape=(self.classes, kinds))
        return (member @ counts.T).T
