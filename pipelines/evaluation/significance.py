"""Statistical tests for the difference of two models on the same images, and of two variants over training seeds."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from pipelines.evaluation.metric_bootstrap import bootstrap_difference
from pipelines.outputs.evaluation_results import Difference, SeedResults
from pipelines.settings.metric import Metric
from pipelines.settings.params import EvaluateParams


def compare(truth: np.ndarray, first: np.ndarray, second: np.ndarray, settings: EvaluateParams) -> Difference:
    """Compare two models by ``evaluate.metric`` on the same images.

    The confidence interval is the percentile bootstrap over images (Efron and Tibshirani, 1993, chapter 13). For the
    accuracy, the p-value is McNemar's exact test, two-sided: the binomial test on the images that exactly one of the
    models classifies correctly. For the other metrics it is that of the bootstrap: twice the share of the resamples in
    which the difference is 0 or has the other sign.

    Args:
        truth: actual labels (N,).
        first, second: labels (N,) predicted by each model.
        settings: metric, number of resamples and confidence level of the interval.
    """
    delta = (second == truth).astype(float) - (first == truth).astype(float)
    only_first, only_second = int((delta < 0).sum()), int((delta > 0).sum())
    if settings.metric == Metric.ACCURACY:
        if not delta.any():  # nothing to resample
            return Difference(0.0, 0.0, 0.0, 0, 0, 1.0)
        low, high = stats.bootstrap(
            (delta,), np.mean, n_resamples=settings.resamples, confidence_level=settings.confidence,
            method="percentile", batch=max(1, 10_000_000 // len(delta)), rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        p_value = stats.binomtest(only_first, only_first + only_second).pvalue
        return Difference(float(delta.mean()), float(low), float(high), only_first, only_second, float(p_value))
    found = bootstrap_difference(truth, first, second, settings)
    p_value = min(1.0, 2 * min(found.share_at_most_0, found.share_at_least_0))
    return Difference(found.difference, found.low, found.high, only_first, only_second, p_value)


def better_p_value(truth: np.ndarray, first: np.ndarray, second: np.ndarray, settings: EvaluateParams) -> float:
    """P-value, one-sided, of the second model being better than the first by ``evaluate.metric``.

    For the accuracy see :func:`mcnemar_p_value`. For the other metrics it is the share of bootstrap resamples in which
    the second model is not better. The arguments are those of :func:`compare`.
    """
    if settings.metric == Metric.ACCURACY:
        return mcnemar_p_value(first == truth, second == truth)
    return bootstrap_difference(truth, first, second, settings).share_at_most_0


class SeedDifference(NamedTuple):
    """Mean difference of a metric of two variants, and its confidence interval; shares in [-1, 1]."""

    mean: float
    low: float
    high: float


def compare_seeds(
    first: Mapping[int, SeedResults], second: Mapping[int, SeedResults], metric: Metric, confidence: float
) -> SeedDifference | None:
    """Compare two variants by a metric of their training seeds on the test images, paired by seed.

    With the same seed, both see the same batches in the same order. The interval is Student's t-interval of the mean
    difference: it says whether another training would show the same difference.

    Args:
        first, second: results of each training seed.
        metric: what is compared.
        confidence: confidence level of the interval, in (0, 1).

    Returns:
        None if fewer than two seeds are common.
    """
    common = [seed for seed in first if seed in second]
    if len(common) < 2:
        return None
    differences = np.array([second[seed].on_test(metric) - first[seed].on_test(metric) for seed in common])
    margin = float(stats.t.ppf((1 + confidence) / 2, len(common) - 1) * differences.std(ddof=1) / len(common) ** 0.5)
    mean = float(differences.mean())
    return SeedDifference(mean, mean - margin, mean + margin)


def mcnemar_p_value(first: np.ndarray, second: np.ndarray) -> float:
    """P-value of McNemar's exact test, one-sided: is the second model better than the first?

    Probability of at least this many discordant wins of the second model if the models are equal. A discordant win is
    an image that only this model classifies correctly.

    Args:
        first, second: whether each model's prediction is correct, boolean (N,).
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_second, only_first + only_second, alternative="greater").pvalue)


def holm_rejections(p_values: list[float], level: float) -> list[bool]:
    """Decide which hypotheses are rejected, by the step-down procedure of Holm (1979).

    The probability of rejecting at least one true hypothesis is at most ``level``.
    """
    rejected = [False] * len(p_values)
    for done, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > level / (len(p_values) - done):
            break
        rejected[index] = True
    return rejected
