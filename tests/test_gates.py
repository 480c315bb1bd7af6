"""What a promotion must meet beside its verdict, each gate on numbers that are known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tasks import gates
from tasks.comparison import compare
from tasks.config import Pipeline
from tasks.learning.statistics import calibration_error
from tasks.load import resolve
from tests.test_comparison import PIPELINE

ROWS = [
    {
        "id": str(n),
        "group": None,
        "label": "positive" if n < 250 else "negative",
        "text": "so " * (1 + n % 9),
    }
    for n in range(300)
]
SURE = {"positive": [0.1, 0.9], "negative": [0.9, 0.1]}


def pipeline(**promotion: Any) -> Pipeline:
    """The application of the comparison's tests."""
    document = PIPELINE.model_dump(mode="json")
    document["promotion"] |= promotion
    return resolve(json.dumps(document))


def answers(wrong: range) -> list[dict[str, Any]]:
    """Predictions that are wrong on these rows, all with a probability of 0.9."""
    other = {"positive": "negative", "negative": "positive"}
    labels = [other[row["label"]] if n in wrong else row["label"] for n, row in enumerate(ROWS)]
    return [{"label": label, "probabilities": SURE[label]} for label in labels]


def worst(challenger: range, **promotion: Any) -> gates.Gate:
    """The gate of a challenger that is wrong on these rows, beside a champion that never is."""
    found = {"champion": answers(range(0)), "challenger": answers(challenger)}
    report = compare(PIPELINE, found, ROWS, "challenger")
    (gate,) = gates.worst_slice(pipeline(**promotion), report, "champion")
    return gate


def test_a_rare_label_that_is_lost() -> None:
    """30 of the 50 negative rows, a tenth of all: the label's F1 falls to 2 · 20 / (20 + 50)."""
    gate = worst(range(270, 300))
    assert not gate.passed
    assert gate.found.startswith("label negative: -0.4286 (-0.6")
    assert gate.found.endswith("may be -0.02 beyond doubt")
    assert worst(range(270, 300), worst_slice=0.5).passed


def test_what_may_be_chance() -> None:
    """One negative row of 50 fewer may be chance; the same answers are no loss at all."""
    one = worst(range(299, 300))
    assert one.found.startswith("label negative: -0.0101")
    assert one.passed
    assert worst(range(0)).passed


def test_a_label_of_few_rows_is_not_judged() -> None:
    """Nineteen rows of it, all lost, say too little."""
    rows = [row for n, row in enumerate(ROWS) if n < 269]
    found = {"champion": answers(range(0))[:269], "challenger": answers(range(250, 269))[:269]}
    report = compare(PIPELINE, found, rows, "challenger")
    (gate,) = gates.worst_slice(pipeline(), report, "champion")
    assert "label negative" not in gate.found


def test_a_value_of_a_column_that_is_lost() -> None:
    """The 30 rows of a country, all of them wrong."""
    document = pipeline().model_dump(mode="json")
    document["target"]["products"]["slices"] = ["country"]
    own = resolve(json.dumps(document))
    rows = [{**row, "slice country": "de" if n < 30 else "fr"} for n, row in enumerate(ROWS)]
    found = {"champion": answers(range(0)), "challenger": answers(range(30))}
    report = compare(own, found, rows, "challenger")
    assert [(p["name"], p["rows"]) for p in report["slices"]["slice country"]] == [
        ("de", 30), ("fr", 270)
    ]  # fmt: skip
    (gate,) = gates.worst_slice(own, report, "champion")
    assert gate.found.startswith("slice country de: -1.0000 (-1.0000 to -1.0000)")
    assert not gate.passed


def test_what_is_left_of_a_source() -> None:
    """Three points less than before, of which five may be lost but not two."""
    gain = {"value": -0.03, "low": -0.05, "high": -0.01}
    for limit, passed in ((0.02, False), (0.05, True)):
        made = pipeline(source_drop=limit)
        (gate,) = gates.source_drop(made, {"retention": {"movies": {"gain": gain}}})
        assert gate.name == "source movies"
        assert gate.found.startswith("-0.0300 (-0.0500 to -0.0100) by the transfer, may be -0.0")
        assert gate.passed == passed
    assert not list(gates.source_drop(pipeline(), {}))


def test_calibration() -> None:
    """Who is right of 9 in 10 and says 0.9 is calibrated; right of all is 0.1 off."""
    ninety = gates.calibration(pipeline(calibration_error=0.05), answers(range(30)), ROWS)
    all_right = gates.calibration(pipeline(calibration_error=0.05), answers(range(0)), ROWS)
    assert (ninety.found, ninety.passed) == ("0.0000, may be 0.05", True)
    assert (all_right.found, all_right.passed) == ("0.1000, may be 0.05", False)


def test_calibration_error_of_several_bins() -> None:
    """Weighted by how many fall into each: 3 of 4 at 0.5 that are right in 1, 1 at 1.0 that is."""
    confidence = np.array([0.5, 0.5, 0.5, 1.0])
    right = np.array([True, False, False, True])
    expected = 3 / 4 * (1 / 2 - 1 / 3)
    assert calibration_error(confidence, right) == pytest.approx(expected)


def test_limits() -> None:
    """Each is shown with its number; without a limit anything passes."""
    times = [1.0] * 90 + [50.0] * 10
    assert gates.latency(pipeline(), times).passed
    assert not gates.latency(pipeline(milliseconds=20), times).passed
    assert gates.latency(pipeline(milliseconds=20), times).found.startswith(
        "p50 1.0, p95 50.0, may be 20; "
    )
    assert gates.size(pipeline(megabytes=90), 80).passed
    assert not gates.size(pipeline(megabytes=90), 91).passed


def test_rows_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the pipeline allows, and none that nobody counted."""
    counted = {"movies_rows": 90.0, "movies_rejected": 0.0, "products_rows": 99.0}
    values = {**counted, "products_rejected": 1.0}
    monkeypatch.setattr(gates.tracking, "run_values", lambda run: values)
    gate = gates.data(pipeline(), "run")
    assert (gate.found, gate.passed) == ("movies 0 of 90, products 1 of 100, may be 1.00%", True)
    worse = {**values, "products_rejected": 9.0}
    monkeypatch.setattr(gates.tracking, "run_values", lambda run: worse)
    assert not gates.data(pipeline(), "run").passed
    monkeypatch.setattr(gates.tracking, "run_values", lambda run: counted)
    gate = gates.data(pipeline(), "run")
    assert (gate.found.endswith("how many of products"), gate.passed) == (True, False)


def test_licences() -> None:
    """Whatever has none is named; it matters where they must be known."""
    found = gates.licences(pipeline(licences="known"))
    assert (found.found, found.passed) == ("unknown: backbone, movies, products", False)
    assert gates.licences(pipeline()).passed
