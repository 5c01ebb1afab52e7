"""Two models on the same images: is one of them really better?"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from pipelines.settings.params import EvaluateParams


class Difference(NamedTuple):
    """How much more accurate the second of two models is than the first, on the same images."""

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def compare(first: np.ndarray, second: np.ndarray, settings: EvaluateParams) -> Difference:
    """Compare two models by which images each got right, boolean (N,) both.

    The interval is the percentile bootstrap over images (Efron and Tibshirani, 1993, chapter 13); the p-value is that
    of McNemar's exact test, two-sided: the binomial test on the images that only one of them got right.
    """
    delta = second.astype(float) - first.astype(float)
    if not delta.any():  # nothing to resample
        return Difference(0.0, 0.0, 0.0, 0, 0, 1.0)
    low, high = stats.bootstrap(
        (delta,), np.mean, n_resamples=settings.resamples, confidence_level=settings.confidence,
        method="percentile", batch=max(1, 10_000_000 // len(delta)), rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    only_first, only_second = int((delta < 0).sum()), int((delta > 0).sum())
    p_value = stats.binomtest(only_first, only_first + only_second).pvalue
    return Difference(float(delta.mean()), float(low), float(high), only_first, only_second, float(p_value))


def p_better(first: np.ndarray, second: np.ndarray) -> float:
    """How likely the second would look so much better by chance: McNemar's exact test, one-sided; boolean (N,) both.

    Of the images that only one of them got right at least so many are the second's, were each as likely to be either's.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_second, only_first + only_second, alternative="greater").pvalue)


def holm(p_values: list[float], level: float) -> list[bool]:
    """Which of several hypotheses are rejected, the chance of rejecting any true one at most ``level``: Holm (1979)."""
    rejected = [False] * len(p_values)
    for done, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] > level / (len(p_values) - done):
            break
        rejected[place] = True
    return rejected
