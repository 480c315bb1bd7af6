"""Bootstrap intervals and paired tests over per-example statistics.

A corpus metric is a function of summed statistics, so a resample is a weighted sum:
R resamples x N rows times N rows x K statistics -> R x K, and scores of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Scores = Callable[[np.ndarray], dict[str, np.ndarray]]
CHUNK = 250


@dataclass(frozen=True)
class Interval:
    """A value and where it lies with the stated confidence."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is clear of zero."""
        return self.low > 0 or self.high < 0


def weights(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """(CHUNK, N) multinomial counts at a time: how often each row is in each resample."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        yield generator.multinomial(rows, np.full(rows, 1 / rows), size=count)


def by_unit(statistics: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(N, K) statistics of rows -> (U, K), summed over each unit that is drawn whole."""
    _, positions = np.unique(units, return_inverse=True)
    totals = np.zeros((positions.max() + 1, statistics.shape[1]))
    np.add.at(totals, positions, statistics)
    return totals


def resampled(
    statistics: np.ndarray, scores: Scores, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Metric -> (R,) its value on each resample.

    The same seed draws the same rows for every model, so differences are paired.
    """
    totals = [drawn @ statistics for drawn in weights(len(statistics), resamples, seed)]
    return scores(np.concatenate(totals))


def interval(value: float, samples: np.ndarray, confidence: float) -> Interval:
    """Percentile interval (Efron 1979)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def paired_p_value(differences: np.ndarray) -> float:
    """Two-sided p of "no difference" from paired resamples, never below 2 / (R + 1)."""
    resamples = len(differences)
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (resamples + 1)))


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """ECE = Σ_b |b| / N · |accuracy of b − mean confidence of b|, over equal bins of confidence.

    (N,) confidences in [0, 1] and whether each prediction was right. Guo et al. 2017, eq. 3.
    """
    chosen = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[chosen == b].mean() - confidence[chosen == b].mean()) * (chosen == b).mean()
        for b in np.unique(chosen)
    ]
    return float(sum(gaps))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact McNemar test on two (N,) arrays of right or wrong (McNemar 1947).

    p = P(Binomial(n01 + n10, 1/2) at least as uneven as seen), two-sided.
    """
    from scipy.stats import binomtest

    gained = int((~first & second).sum())
    lost = int((first & ~second).sum())
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5).pvalue)
