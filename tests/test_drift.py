"""Two samples told apart: statistics against known truths, the rate of false alarms, and power."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, ks_2samp, mannwhitneyu

from tasks.drift import sample as measured
from tasks.errors import DataError, DataRejected
from tasks.fresh import fresh_text
from tasks.learning.applications import AnyApplication
from tasks.learning.contracts import Row
from tasks.learning.discrepancy import (
    classifier_auc,
    largest_gap,
    mmd,
    more_of,
    pairs_won,
    variation,
)
from tasks.learning.drift import Sample, calibrated, compare, dealt
from tasks.learning.learner import new_learner
from tasks.learning.serving import ServedModel, describe
from tasks.load import load
from tasks.watch import Watch, apart
from tests.conftest import PIPELINES
from tests.test_grid import APPLICATIONS, members

WIDTH = 16


def sample(rows: int, seed: int, shift: float = 0.0) -> Sample:
    """Rows of one domain; `shift` moves a feature of 16 by so many standard deviations."""
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(rows, WIDTH)).astype(np.float32)
    features[:, 0] += shift
    length = chance.poisson(15, rows) + 1.0
    return Sample(
        features=features,
        length=length,
        unknown=chance.binomial(length.astype(int), 0.04).astype(float),
        labels=np.eye(2)[chance.integers(0, 2, rows)],
        confidence=chance.beta(5, 2, rows),
    )


def drifted(reference: Sample, fresh: Sample, seed: int = 0) -> set[str]:
    return {one.name for one in compare(reference, fresh, 0.05, seed) if one.drifted}


def marks(reference: int, fresh: int) -> np.ndarray:
    return np.repeat([0.0, 1.0], [reference, fresh])[:, None].astype(np.float32)


def test_mmd() -> None:
    """Unbiased: as in the formula, row by row; near zero for one distribution, above it for two."""
    one, other = sample(30, 0).features, sample(20, 1, shift=1).features
    both = np.concatenate([one, other])
    squares = ((both[:, None] - both) ** 2).sum(-1)
    kernel = np.exp(-squares / (2 * np.median(squares)))

    def mean(rows: slice, columns: slice) -> float:
        """Of pairs of two rows that are not the same."""
        part = kernel[rows, columns]
        if rows == columns:
            return float((part.sum() - np.trace(part)) / (len(part) * (len(part) - 1)))
        return float(part.mean())

    r, f = slice(0, 30), slice(30, 50)
    expected = mean(f, f) + mean(r, r) - 2 * mean(f, r)
    assert mmd(both)(marks(30, 20))[0] == pytest.approx(expected, rel=1e-4)
    same = np.concatenate([sample(500, 2).features, sample(500, 3).features])
    assert abs(mmd(same)(marks(500, 500))[0]) < 1e-3 < mmd(both)(marks(30, 20))[0]


def test_classifier() -> None:
    """0.5 where nothing tells the sides apart, 1 where one feature does, whatever the sizes."""
    same = np.concatenate([sample(1000, 0).features, sample(200, 1).features])
    assert classifier_auc(same, 0)(marks(1000, 200))[0] == pytest.approx(0.5, abs=0.06)
    other = np.concatenate([sample(1000, 0).features, sample(200, 1, shift=12).features])
    assert classifier_auc(other, 0)(marks(1000, 200))[0] > 0.999
    alike = np.ones((300, WIDTH))
    assert 0.3 < classifier_auc(alike, 0)(marks(200, 100))[0] < 0.7


def test_against_scipy() -> None:
    """Mann and Whitney's U, and Kolmogorov and Smirnov's gap, with ties."""
    one, other = sample(80, 0), sample(50, 1)
    lengths = np.concatenate([one.length, other.length])
    gap = largest_gap(lengths)(marks(80, 50))[0]
    assert gap == pytest.approx(ks_2samp(one.length, other.length).statistic)
    values = np.concatenate([one.confidence, other.confidence])  # type: ignore[list-item]
    won, pairs = pairs_won(values[:, None], marks(80, 50))
    assert won[0] == mannwhitneyu(other.confidence, one.confidence).statistic
    assert pairs[0] == 80 * 50


def test_words_and_labels() -> None:
    """Unknown words are counted by words, not by rows; labels by the rows that have them."""
    unknown, length = np.array([0.0, 1, 3, 0]), np.array([10.0, 10, 5, 5])
    found = more_of(unknown, length)(marks(2, 2))[0]
    assert found == pytest.approx(3 / 10 - 1 / 20)
    labels = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], dtype=float)
    assert variation(labels)(marks(2, 2))[0] == pytest.approx(0.5)


def test_marks_are_dealt_out_anew() -> None:
    """As they are first; then as many fresh ones each time, elsewhere."""
    given = np.repeat([0.0, 1.0], [30, 10])
    drawn = np.concatenate(list(dealt(given, 700, seed=1)), axis=1)
    assert drawn.shape == (40, 700)
    assert (drawn[:, 0] == given).all()
    assert (drawn.sum(0) == 10).all()
    assert np.allclose(drawn[:, 1:].mean(1), 0.25, atol=0.08)


def test_calibration() -> None:
    """Above a threshold is what has a corrected p below the rate; of all permutations no more than
    the rate are above any threshold; values that are all alike never are."""
    values = np.random.default_rng(0).normal(size=(4, 2000))
    values[3] = 1.0
    thresholds, corrected = calibrated(values, 0.05)
    above = (values > thresholds[:, None]).any(0).mean()
    assert 0.03 < above <= 0.05
    assert thresholds[3] == 1.0
    assert corrected[3] == 1.0
    values[0, 0] = 9
    thresholds, corrected = calibrated(values, 0.05)
    assert values[0, 0] > thresholds[0]
    assert corrected[0] <= 0.05 < corrected[1]


def test_the_rate_of_false_alarms() -> None:
    """Of 300 pairs of samples of one domain, as many raise an alarm as is stated, by all measures
    together, within what chance allows (binomial, 1 in 1,000 on each side)."""
    alarms = sum(bool(drifted(sample(120, 2 * i), sample(60, 2 * i + 1), i)) for i in range(300))
    assert binom.ppf(0.001, 300, 0.05) <= alarms <= binom.ppf(0.999, 300, 0.05)


def test_copies_raise_no_alarm() -> None:
    """A domain that repeats few texts has many equal values; ties are no drift."""
    chance = np.random.default_rng(0)
    few = sample(5, 0)
    alarms = sum(
        bool(drifted(few.take(chance.integers(0, 5, 120)), few.take(chance.integers(0, 5, 60)), i))
        for i in range(60)
    )
    assert alarms <= binom.ppf(0.999, 60, 0.05)


def test_power() -> None:
    """A shift is found by the measure that it is of, and what is not there is not measured."""
    reference, fresh = sample(500, 0), sample(200, 1)
    assert drifted(reference, sample(200, 1, shift=1)) == {"embeddings", "classifier"}
    assert drifted(reference, replace(fresh, length=fresh.length * 1.3)) == {"length"}
    more = replace(fresh, unknown=fresh.unknown + (np.arange(200) % 2))
    assert drifted(reference, more) == {"unknown_words"}
    fewer = replace(fresh, unknown=fresh.unknown * 0)
    assert drifted(reference, fewer) == set()
    one_label = replace(fresh, labels=np.eye(2)[np.zeros(200, dtype=int)])
    assert drifted(reference, one_label) == {"labels"}
    sure = replace(fresh, confidence=np.ones(200))
    assert drifted(reference, sure) == {"confidence"}
    silent = [replace(one, labels=None, confidence=None) for one in (reference, fresh)]
    assert [one.name for one in compare(*silent, 0.05, 0)] == [
        *("embeddings", "classifier", "length", "unknown_words"),
    ]


def test_one_row_of_each_group(tmp_path: Path) -> None:
    """Sentences of one review are no independent rows: one of each is compared, and all are kept;
    a file without the column of groups is taken as it is."""
    rows: list[Row] = [{"text": str(i)} for i in range(6)]
    few = apart(rows, ["a", "a", None, "b", None, "a"], seed=0)
    assert {"2", "3", "4"} < {row["text"] for row in few}
    assert len(few) == 4
    pipeline = load(PIPELINES, "reviews")  # group: id, up to the first _
    watch = Watch("reviews", "1", "", pipeline, [], 0, [])
    table = pd.DataFrame({"id": [f"{i // 3}_{i}" for i in range(180)], "text": "great é "})
    table.to_csv(tmp_path / "grouped.csv")
    found = fresh_text(watch, str(tmp_path / "grouped.csv"))
    assert (len(found.rows), len(found.apart)) == (180, 60)
    assert found.rows[0] == {"text": "great é"}
    table[["text"]].to_csv(tmp_path / "plain.csv")
    assert len(fresh_text(watch, str(tmp_path / "plain.csv")).apart) == 180
    table[:120].to_csv(tmp_path / "few.csv")
    with pytest.raises(DataRejected, match=r"few\.csv: 120 rows of 40 groups; at least 50"):
        fresh_text(watch, str(tmp_path / "few.csv"))


def test_words_in_a_list(tmp_path: Path) -> None:
    """Of tokens, a file may hold them as the training data does, or texts as a request does."""
    pipeline = load(PIPELINES, "chinese")
    watch = Watch("chinese", "1", "", pipeline, [], 0, [])
    pd.DataFrame({"tokens": [["北", "京"]] * 60}).to_parquet(tmp_path / "tokens.parquet")
    pd.DataFrame({"text": ["北京"] * 60}).to_json(
        tmp_path / "t.jsonl", orient="records", lines=True
    )
    for name in ("tokens.parquet", "t.jsonl"):
        assert fresh_text(watch, str(tmp_path / name)).rows == [{"tokens": "北 京"}] * 60
    pd.DataFrame({"tokens": [3] * 60}).to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(DataError, match="row 1: 'tokens' holds no words"):
        fresh_text(watch, str(tmp_path / "numbers.parquet"))


@pytest.mark.parametrize("kind", APPLICATIONS)
def test_every_application(kind: str) -> None:
    """A request becomes the inputs of a row; a prediction says which labels it gives, if any."""
    options, rows = APPLICATIONS[kind]
    made = members(AnyApplication)[kind](kind=kind, **options)
    request = dict.fromkeys(made.request, "the film was great")
    assert made.asked(request) == dict.fromkeys(made.inputs, "the film was great")
    (said,) = made.trivial(rows, rows[:1])
    assert made.given(said) <= set(made.labels)
    assert bool(made.labels) or not made.given({"text": "great"})


@pytest.mark.parametrize("kind", APPLICATIONS)
def test_what_is_measured_of_every_application(
    kind: str, seq2seq: Path, backbone: Path, tmp_path: Path
) -> None:
    """Features, words and unknown words of all; labels of those that give some."""
    options, rows = APPLICATIONS[kind]
    made = members(AnyApplication)[kind](kind=kind, **options)
    new_learner(backbone if made.labels else seq2seq, {kind: made}).save(tmp_path / "learner")
    describe(tmp_path, made)
    inputs = [{field: row[field] for field in made.inputs} for row in rows]
    found = measured(ServedModel(tmp_path), inputs, {"the", "was"})
    assert found.features.shape == (len(rows), 32)
    assert (found.unknown < found.length).all()
    assert (found.labels is None) == (not made.labels)
    assert (found.confidence is None) == (kind != "text_classification")
    if found.labels is not None:
        assert found.labels.shape == (len(rows), len(made.labels))
