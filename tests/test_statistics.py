from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.learning.statistics import (
    CHUNK,
    Interval,
    interval,
    mcnemar,
    paired_p_value,
    resampled,
    weights,
)


def mean(totals: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 2) sum and count -> their quotient: accuracy, when rows are (right, 1)."""
    return {"mean": totals[..., 0] / totals[..., 1]}


def counted(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)


def bootstrap(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    return resampled(counted(values), mean, resamples, seed)["mean"]


def test_standard_error_of_the_mean() -> None:
    """The spread of resampled means is the analytic one, sd / sqrt(N), and they centre on it."""
    values = np.random.default_rng(1).normal(3, 2, 400)
    samples = bootstrap(values, 8000)
    expected = values.std() / np.sqrt(400)
    assert samples.std() == pytest.approx(expected, rel=0.03)  # sd of a sd: 1/sqrt(2·8000) = 0.8%
    assert samples.mean() == pytest.approx(values.mean(), abs=4 * expected / np.sqrt(8000))


@pytest.mark.parametrize("resamples", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_as_many_resamples_as_asked(resamples: int) -> None:
    """Every resample draws as many rows as there are, and chunking loses none."""
    drawn = np.concatenate(list(weights(30, resamples, 0)))
    assert drawn.shape == (resamples, 30)
    assert (drawn.sum(1) == 30).all()


def test_interval_is_the_quantiles() -> None:
    """A 90% interval of 0…100 is 5…95."""
    assert interval(50.0, np.arange(101.0), 0.9) == Interval(
        50.0, pytest.approx(5), pytest.approx(95)
    )


def test_coverage() -> None:
    """A 95% interval of accuracy covers the truth about 95 times in 100."""
    generator = np.random.default_rng(2)
    trials, covered = 300, 0
    for trial in range(trials):
        right = (generator.random(150) < 0.8).astype(float)
        found = interval(right.mean(), bootstrap(right, 200, trial), 0.95)
        covered += found.low <= 0.8 <= found.high
    # sd of the share: sqrt(.95·.05/300) = 1.3%, and so small a sample's interval is 1% short
    assert 0.90 <= covered / trials <= 0.98


def test_a_against_a() -> None:
    """Two equally good models: 95% of the intervals of their difference cover zero."""
    generator = np.random.default_rng(3)
    trials, covered = 300, 0
    for trial in range(trials):
        hard = generator.random(150)  # what is hard for one is hard for the other
        first, second = (
            (hard + generator.normal(0, 0.2, 150) < 0.7).astype(float) for _ in range(2)
        )
        difference = bootstrap(first, 200, trial) - bootstrap(second, 200, trial)
        found = interval(first.mean() - second.mean(), difference, 0.95)
        covered += not found.excludes_zero
    assert 0.90 <= covered / trials <= 0.985


def test_a_better_model_is_told_apart() -> None:
    """A model that is right on 30 of 300 rows more has a difference clear of zero."""
    first = np.ones(300)
    first[:60] = 0
    second = first.copy()
    second[:30] = 1
    difference = bootstrap(second) - bootstrap(first)
    assert interval(0.1, difference, 0.95).excludes_zero
    assert paired_p_value(difference) == pytest.approx(2 / 1001)


def test_same_rows_for_both_models() -> None:
    """Under one seed both models are resampled on the same rows: identical ones differ by zero."""
    right = (np.random.default_rng(4).random(200) < 0.7).astype(float)
    assert (bootstrap(right, seed=5) == bootstrap(right.copy(), seed=5)).all()
    assert (bootstrap(right, seed=5) != bootstrap(right, seed=6)).any()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)],
)
def test_excludes_zero(low: float, high: float, expected: bool) -> None:
    """Only an interval wholly on one side is clear of zero."""
    assert Interval(0.0, low, high).excludes_zero is expected


def test_mcnemar_by_hand() -> None:
    """1 lost and 5 gained: p = 2 · (C(6,0) + C(6,1)) / 2⁶ = 14/64."""
    #                 both  neither  lost  gained
    first = np.array([1] * 9 + [0] * 4 + [1] + [0] * 5, dtype=bool)
    second = np.array([1] * 9 + [0] * 4 + [0] + [1] * 5, dtype=bool)
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(second, first) == pytest.approx(14 / 64)


def test_mcnemar_without_disagreement() -> None:
    """Models that are right on the same rows do not differ: p = 1."""
    right = np.array([True, False, True])
    assert mcnemar(right, right) == 1.0


def test_mcnemar_symmetric() -> None:
    """Which model is named first does not matter, and p is a probability."""
    generator = np.random.default_rng(7)
    for _ in range(20):
        first, second = generator.random((2, 50)) < [[0.7], [0.5]]
        p = mcnemar(first, second)
        assert p == mcnemar(second, first)
        assert 0 < p <= 1


def test_p_value_bounds() -> None:
    """Never 0 however clear the difference, never over 1, and 1 when there is none."""
    assert paired_p_value(np.full(999, 0.1)) == paired_p_value(np.full(999, -0.1)) == 2 / 1000
    assert paired_p_value(np.zeros(999)) == 1.0
    assert paired_p_value(np.array([-1.0, 1.0] * 500)) == 1.0


def test_p_value_falls_with_the_difference() -> None:
    """The more resamples lie on one side, the smaller the p value."""
    noise = np.random.default_rng(8).normal(0, 1, 2000)
    found = [paired_p_value(noise + shift) for shift in (0, 0.5, 1, 2, 3)]
    assert all(later < earlier for earlier, later in pairwise(found))


def test_p_value_agrees_with_mcnemar() -> None:
    """On accuracy the paired bootstrap and the exact test tell about the same."""
    first = np.array([1.0] * 60 + [0.0] * 40)
    second = first.copy()
    second[55:60], second[60:75] = 0, 1  # 5 lost, 15 gained
    p = paired_p_value(bootstrap(second, 20_000) - bootstrap(first, 20_000))
    assert p == pytest.approx(binomtest(15, 20).pvalue, abs=0.025)
