"""The comparison of systems on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import comparison, pictures
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


def test_slices() -> None:
    """Thirds by length, of which the longest is the one that the baseline fails at."""
    rows = [
        {"id": str(n), "group": None, "label": "positive", "text": "so " * (n // 10 + 1)}
        for n in range(90)
    ]
    right, wrong = {"label": "positive"}, {"label": "negative"}
    alone = [wrong if n >= 60 else right for n in range(90)]
    report = comparison.compare(PIPELINE, {"target_only": alone, "transfer": [right] * 90}, rows)
    parts = report["slices"]["length"]
    assert [(one["name"], one["rows"]) for one in parts] == [
        ("1 to 3", 30),
        ("4 to 6", 30),
        ("7 to 9", 30),
    ]
    assert [one["gains"]["target_only"]["value"] for one in parts] == [0, 0, 1]
    (every,) = report["by_label"]
    assert (every["name"], every["rows"]) == ("positive", 90)
    assert every["systems"]["target_only"]["value"] == pytest.approx(2 * 60 / (60 + 90))
    assert every["gains"]["target_only"]["value"] == pytest.approx(1 - 2 * 60 / (60 + 90))
    assert [one["systems"]["target_only"]["value"] for one in parts] == [1, 1, 0]
    assert [one["systems"]["transfer"]["value"] for one in parts] == [1, 1, 1]


def test_a_part_may_lack_a_label(tmp_path: Path) -> None:
    """It is judged by accuracy: a label without rows would count as F1 0. An interval that does not
    hold the value, as of few rows, can be drawn."""
    rows = [
        {"id": str(n), "group": None, "label": label, "text": "so " * (n + 1)}
        for n, label in enumerate(["negative"] * 12 + ["positive"] * 12)
    ]
    evaluation = {"metric": "macro_f1", "resamples": 200}
    pipeline = Pipeline.model_validate({**PIPELINE.model_dump(), "evaluation": evaluation})
    right = [{"label": row["label"]} for row in rows]
    report = comparison.compare(pipeline, {"transfer": right}, rows)
    parts = report["slices"]["length"]
    assert [one["systems"]["transfer"]["value"] for one in parts] == [1, 1, 1]
    parts[0]["systems"]["transfer"]["high"] = 0.5
    report["systems"]["transfer"]["macro_f1"]["high"] = 0.5
    for figure in (pictures.slices(report), pictures.scores(report)):
        figure.savefig(tmp_path / "one.png")


def test_slices_draw_groups_whole() -> None:
    """As all intervals do: ten sentences alike of a review say no more than one."""
    spread = {}
    for grouped in (False, True):
        (part,) = compared(group=grouped)["slices"]["length"]
        found = part["systems"]["target_only"]
        spread[grouped] = found["high"] - found["low"]
    assert spread[True] > 2 * spread[False]


def test_slices_of_rows_alike() -> None:
    """One part where all are of one length."""
    (part,) = compared(group=False)["slices"]["length"]
    assert part["rows"] == 200


def test_every_metric_has_its_difference() -> None:
    """With an interval, that of the deciding one being the gain."""
    gain = compared(group=False)["gains"]["target_only"]
    assert set(gain["metrics"]) == {"accuracy", "macro_f1"}
    assert gain["metrics"]["accuracy"] == {key: gain[key] for key in ("value", "low", "high")}
