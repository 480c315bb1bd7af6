"""Whether fresh text is what a model was made for: two samples and how far they lie apart.

    1. Each measure is a statistic T of N rows and a mark z in {0, 1} a row: reference or fresh.
    2. If both are draws from one domain, the marks say nothing: dealing them out anew among the
       rows (a permutation) gives T's distribution, exactly and for any number of rows.
    3. p of a measure is the share of permutations with a T as high; the smallest p of all measures
       is itself compared with the smallest p of each permutation, so that the stated rate of false
       alarms is that of all measures together (Westfall and Young 1993, min-p).

The kernel test is Gretton et al. 2012, the classifier Lopez-Paz and Oquab 2017; Rabanser et al.
2019 compare such tests on shifts, and Lipton et al. 2018 give the one on predictions.

N rows   m of them fresh   R permutations, the first of which is no permutation   H width   C labels
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tasks.learning.discrepancy import (
    Statistic,
    classifier_auc,
    largest_gap,
    mmd,
    more_of,
    variation,
)

CHUNK = 500
"""Permutations at a time."""


@dataclass(frozen=True)
class Sample:
    """What is measured of each row."""

    features: np.ndarray
    """(N, H) the mean of the backbone's states."""
    length: np.ndarray
    """(N,) words."""
    unknown: np.ndarray
    """(N,) words that the training text lacks."""
    labels: np.ndarray | None = None
    """(N, C) which labels the model gives, 1 or 0; None: it gives none."""
    confidence: np.ndarray | None = None
    """(N,) of its answer, in [0, 1]; None: it has none."""

    def take(self, rows: np.ndarray) -> Sample:
        """Some of the rows, by their numbers."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        some = {name: None if one is None else one[rows] for name, one in own.items()}
        return Sample(**some)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Measure:
    """One way to tell the samples apart, and what came of it."""

    name: str
    value: float
    threshold: float
    """Above it is drift, at the stated rate of false alarms of all measures together."""
    p: float
    """Of this measure, corrected for there being several."""
    reference: float | None = None
    """What is compared, of the reference: a mean, a share; None: there is no one number."""
    fresh: float | None = None

    @property
    def drifted(self) -> bool:
        """Whether it alone would raise the alarm."""
        return self.value > self.threshold


def compare(reference: Sample, fresh: Sample, false_alarms: float, seed: int) -> list[Measure]:
    """Measure fresh text against a reference; it has drifted if any measure has.

    Args:
        reference: rows the model was not trained on, of the domain it was made for.
        fresh: as many columns, other rows.
        false_alarms: how often text of the reference's own domain may raise an alarm, by all
            measures together.
        seed: draws folds and permutations.
    """
    both = joined(reference, fresh)
    known = statistics(both, seed)
    marks = np.repeat([0.0, 1.0], [len(reference.length), len(fresh.length)])
    wanted = permutations(false_alarms)
    drawn = [np.stack([found(z) for found in known.values()]) for z in dealt(marks, wanted, seed)]
    values = np.concatenate(drawn, axis=1)  # (K, R)
    thresholds, corrected = calibrated(values, false_alarms)
    told = {name: (described(reference, name), described(fresh, name)) for name in known}
    return [
        Measure(name, float(values[i, 0]), float(thresholds[i]), float(corrected[i]), *told[name])
        for i, name in enumerate(known)
    ]


def permutations(false_alarms: float) -> int:
    """R: so many that the rate is a quantile and no extreme."""
    return max(1000, round(20 / false_alarms))


def joined(reference: Sample, fresh: Sample) -> Sample:
    """All rows as one sample, the reference's first."""

    def both(name: str) -> np.ndarray | None:
        one, other = getattr(reference, name), getattr(fresh, name)
        return None if one is None or other is None else np.concatenate([one, other])

    return Sample(**{name: both(name) for name in Sample.__dataclass_fields__})  # type: ignore[arg-type]


def dealt(marks: np.ndarray, wanted: int, seed: int) -> Iterator[np.ndarray]:
    """(N, CHUNK) marks at a time, R in all: as they are, then dealt out anew each time."""
    generator = np.random.default_rng(seed)
    for start in range(0, wanted, CHUNK):
        columns = np.repeat(marks[:, None], min(CHUNK, wanted - start), axis=1)
        shuffled = generator.permuted(columns, axis=0)
        if start == 0:
            shuffled[:, 0] = marks
        yield shuffled.astype(np.float32)


def statistics(rows: Sample, seed: int) -> dict[str, Statistic]:
    """Measure -> its statistic on these rows. What does not depend on the marks is computed once,
    here."""
    found = {
        "embeddings": mmd(rows.features),
        "classifier": classifier_auc(rows.features, seed),
        "length": largest_gap(rows.length),
        "unknown_words": more_of(rows.unknown, rows.length),
    }
    if rows.labels is not None:
        found["labels"] = variation(rows.labels)
    if rows.confidence is not None:
        found["confidence"] = largest_gap(rows.confidence)
    return found


def calibrated(values: np.ndarray, false_alarms: float) -> tuple[np.ndarray, np.ndarray]:
    """Each measure's threshold, and its p corrected for the number of measures.

    p_kr = #{s: T_ks ≥ T_kr} / R;   q_r = min_k p_kr;   corrected p_k = #{r: q_r ≤ p_k0} / R.

    Westfall and Young 1993. The thresholds are all at one p, the largest whose share of
    permutations with q ≤ p is no higher than the rate.

    Args:
        values: (K, R) each measure's T, of the marks as they are first.
        false_alarms: the rate of all measures together.
    """
    total = values.shape[1]
    ascending = np.sort(values, axis=1)
    lower = np.stack(
        [np.searchsorted(a, v, "left") for a, v in zip(ascending, values, strict=True)]
    )
    as_high = total - lower  # (K, R) permutations with a T as high
    least = np.sort(as_high.min(axis=0))
    corrected = np.searchsorted(least, as_high[:, 0], "right") / total
    few, counts = np.unique(least, return_counts=True)
    allowed = few[np.cumsum(counts) <= false_alarms * total]
    place = int(allowed[-1]) if len(allowed) else 0
    return ascending[:, total - 1 - place], corrected


def described(rows: Sample, measure: str) -> float | None:
    """The one number that says most of what a measure compares."""
    if measure == "length":
        return float(np.mean(rows.length))
    if measure == "unknown_words":
        return float(rows.unknown.sum() / max(1, rows.length.sum()))
    if measure == "confidence" and rows.confidence is not None:
        return float(np.mean(rows.confidence))
    return None
