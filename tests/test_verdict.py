"""The verdict on constructed predictions whose true difference is known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tasks.comparison import compare
from tasks.load import resolve
from tasks.verdict import Verdict, verdict
from tests.test_comparison import PIPELINE

ROWS = [
    {"id": str(n), "group": None, "label": "positive" if n % 2 else "negative", "text": "fine"}
    for n in range(400)
]
OTHER = {"positive": "negative", "negative": "positive"}


def answers(right: np.ndarray) -> list[dict[str, str]]:
    """Predictions that are right where `right` is true."""
    pairs = zip(ROWS, right, strict=True)
    return [{"label": row["label"] if good else OTHER[row["label"]]} for row, good in pairs]


def judged(champion: np.ndarray, challenger: np.ndarray, **promotion: Any) -> Verdict:
    """The verdict on two systems, given the rows each is right on."""
    document = PIPELINE.model_dump(mode="json")
    document["promotion"] |= promotion
    document["evaluation"] |= {"resamples": 200}
    pipeline = resolve(json.dumps(document))
    found = {"champion": answers(champion), "challenger": answers(challenger)}
    report = compare(pipeline, found, ROWS, "challenger")
    gain, promotion = report["gains"]["champion"], pipeline.promotion
    return verdict(gain, promotion.minimum_gain, pipeline.margin, report["units"])


def test_too_few_rows() -> None:
    """One row of one, or one group, makes an interval without width: it decides nothing."""
    sure = {"value": 1.0, "low": 1.0, "high": 1.0, "narrow": {"low": 1.0, "high": 1.0}}
    assert verdict(sure, 0, 0.02, 19).decision == "reject"
    assert verdict(sure, 0, 0.02, 19).reason.endswith("is of 19 rows or groups; 20 are needed")
    assert verdict(sure, 0, 0.02, 20).decision == "promote"


def first(count: int) -> np.ndarray:
    """Right on the first so many rows."""
    return np.arange(len(ROWS)) < count


def test_promote() -> None:
    """Right on all the champion is right on and 40 rows more, of 400: a gain of 0.1 for certain."""
    found = judged(first(300), first(340))
    assert found.decision == "promote"
    assert found.reason.startswith("gain +0.1000 (+0.0")
    assert found.reason.endswith("is above 0")


@pytest.mark.parametrize(
    ("challenger", "promotion", "decision", "reason"),
    [
        (first(300), {}, "equivalent", "within 0.02 of zero (+0.0000 to +0.0000)"),
        (first(302), {}, "equivalent", "within 0.02 of zero"),
        (first(302), {"margin": 0.001}, "reject", "not clear of zero, nor within 0.001 of it"),
        (first(260), {}, "reject", "is below zero"),
        (first(340), {"minimum_gain": 0.09}, "reject", "is not above 0.09"),
        (first(340), {"minimum_gain": 0.05}, "promote", "is above 0.05"),
        (~first(100), {}, "reject", "not clear of zero, nor within 0.02 of it"),
    ],
)
def test_others(
    challenger: np.ndarray, promotion: dict[str, float], decision: str, reason: str
) -> None:
    """Beside a champion that is right on 300 rows of 400: a tie, two more, forty fewer, a gain that
    is asked to be larger, and as many right, but others."""
    found = judged(first(300), challenger, **promotion)
    assert (found.decision, reason in found.reason) == (decision, True), found


def test_false_promotions_and_power(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 1,000 pairs that are as good as each other at most 5% are promoted; of those that are
    truly about 0.05 better most are."""
    drawn = np.random.default_rng(0)

    def pair(gain: float) -> str:
        """Both right on most of the same rows, each on some of its own."""
        common = drawn.random(len(ROWS))
        champion, challenger = (common + drawn.normal(0, 0.2, len(ROWS)) for _ in range(2))
        return judged(champion < 0.75, challenger < 0.75 + gain).decision

    alike = [pair(0.0) for _ in range(1000)]
    better = [pair(0.06) for _ in range(200)]
    false, power = (found.count("promote") / len(found) for found in (alike, better))
    with capsys.disabled():
        print(f"\nfalse promotions {false:.3f}, power {power:.3f}")
    assert 0 < false <= 0.04  # 0.025 in truth
    assert power > 0.5
