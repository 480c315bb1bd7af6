"""The comparison of systems on the same rows."""

from __future__ import annotations

from typing import Any

import pytest

from tasks import comparison
from tasks.config import Pipeline

PIPELINE = Pipeline.model_validate(
    {
        "application": {"kind": "text_classification", "labels": ("negative", "positive")},
        "backbone": {"path": "none"},
        "sources": {"movies": {"path": "none"}},
        "target": {"products": {"path": "none"}},
        "paradigm": {"kind": "fine_tuning"},
        "evaluation": {"metric": "accuracy"},
        "promotion": {"model": "reviews"},
    }
)


def compared(group: bool) -> dict[str, Any]:
    """Twenty reviews of ten alike sentences; the baseline fails at every fourth review."""
    rows = [
        {
            "id": str(n),
            "group": str(n // 10) if group else None,
            "label": "positive",
            "text": "fine",
        }
        for n in range(200)
    ]
    right = {"label": "positive"}
    failed = [{"label": "negative"} if n // 10 % 4 == 0 else right for n in range(200)]
    return comparison.compare(PIPELINE, {"target_only": failed, "transfer": [right] * 200}, rows)


def test_rows_of_a_group_are_drawn_together() -> None:
    """Ten alike say no more than one: the interval is √10 wider, and McNemar's test is not made."""
    alone, grouped = compared(group=False), compared(group=True)
    assert (alone["units"], grouped["units"]) == (200, 20)
    gains = [report["gains"]["target_only"] for report in (alone, grouped)]
    assert [gain["value"] for gain in gains] == [pytest.approx(0.25)] * 2
    narrow, wide = (gain["high"] - gain["low"] for gain in gains)
    assert wide / narrow == pytest.approx(10**0.5, rel=0.2)
    assert gains[0]["mcnemar_p_value"] < 0.001
    assert gains[1]["mcnemar_p_value"] is None
