from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import expectations, store, validate
from tasks.config import Validation
from tasks.errors import DataRejected
from tasks.learning.applications import TextClassification

pytestmark = pytest.mark.integration

GOOD = {"text": "Great picture!", "label": "positive"}


SENTIMENT = TextClassification(kind="text_classification", labels=("negative", "positive"))


def ingested(*rows: Mapping[str, Any]) -> store.Output:
    """What ingestion would have written for these rows of `reviews.jsonl`."""

    def compute(folder: Path) -> None:
        whole = [
            {"file": "reviews.jsonl", "row": n, "group": None, "split": None, **row}
            for n, row in enumerate(rows, 1)
        ]
        names = ("file", "row", "text", "label", "group", "split")
        types = [(name, pa.int64() if name == "row" else pa.string()) for name in names]
        pq.write_table(pa.Table.from_pylist(whole, pa.schema(types)), folder / "rows.parquet")
        report = {"rows": len(rows), "left_out": 4}
        (folder / "report.json").write_text(json.dumps(report))

    return store.produce("ingest", store.digest(rows), compute)


def run(rows: store.Output, reject_over: float = 0.5) -> store.Output:
    planned = validate.stage("reviews", rows, SENTIMENT, Validation(reject_over=reject_over))
    return store.produce(planned.name, planned.key, planned.compute)


def test_good_rows_pass() -> None:
    """Good rows pass unchanged, every expectation ran, and the Data Docs can be opened."""
    rows = ingested(GOOD, {"text": "Dull", "label": "negative"})
    output = run(rows, reject_over=0)
    assert pq.read_table(output.file("rows.parquet")) == pq.read_table(rows.file("rows.parquet"))
    assert output.file("quarantine.jsonl").read_text() == ""
    assert output.read_json("report.json") == {
        "rows": 2,
        "left_out": 4,
        "rejected": 0,
        "share": 0.0,
        "expectations": 7,
    }
    assert output.file("data_docs/index.html").is_file()
    assert list(output.file("data_docs/validations").rglob("*.html"))


def test_each_kind_of_bad_row_is_quarantined() -> None:
    """Each bad row is named with file, row, column, value and reason; the good ones go on."""
    bad = [
        {"text": None, "label": "positive"},
        {"text": "\u200b", "label": "positive"},
        {"text": "fine", "label": None},
        {"text": "fine", "label": "maybe"},
    ]
    output = run(ingested(*bad, *[GOOD] * 5))
    lines = output.file("quarantine.jsonl").read_text().splitlines()
    accepted = "is not accepted; accepted: negative, positive"
    assert [tuple(json.loads(line).values()) for line in lines] == [
        ("reviews.jsonl", 1, "text", None, "is empty"),
        ("reviews.jsonl", 2, "text", "\u200b", "is blank"),
        ("reviews.jsonl", 3, "label", None, "is empty"),
        ("reviews.jsonl", 4, "label", "maybe", accepted),
    ]
    assert pq.read_table(output.file("rows.parquet"))["row"].to_pylist() == [5, 6, 7, 8, 9]
    assert output.read_json("report.json")["rejected"] == 4


def test_only_unlabelled_rows_may_lack_a_label() -> None:
    """A missing label is accepted in an unlabelled file and nowhere else."""
    output = run(
        ingested(
            {"text": "a", "label": None, "split": "unlabelled"},
            {"text": "b", "label": None, "split": "train"},
            {"text": "c", "label": None},
            {"text": None, "label": None, "split": "unlabelled"},
            *[GOOD] * 4,
        )
    )
    lines = output.file("quarantine.jsonl").read_text().splitlines()
    assert [(json.loads(line)["row"], json.loads(line)["column"]) for line in lines] == [
        (2, "label"),
        (3, "label"),
        (4, "text"),
    ]


def test_gate_shuts(home: Path) -> None:
    """Over the limit nothing is written but the quarantine, and one line says all of it."""
    rows = ingested(GOOD, {"text": "so so", "label": "maybe"}, GOOD, GOOD)
    with pytest.raises(DataRejected) as error:
        run(rows, reject_over=0.2)
    (file,) = (home / "quarantine").iterdir()
    assert str(error.value) == (
        "reviews: 1 of 4 rows rejected (25.0%, allowed 20.0%); first reviews.jsonl:2 column "
        f"'label': 'maybe' is not accepted; accepted: negative, positive; all in {file}"
    )
    assert file.name.startswith("reviews-")
    assert json.loads(file.read_text())["value"] == "maybe"
    assert run(rows, reject_over=0.25).read_json("report.json")["rejected"] == 1


def test_expectation_that_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Great Expectations drops an expectation silently, the gate stays shut."""
    real = expectations._run
    monkeypatch.setattr(expectations, "_run", lambda *arguments: real(*arguments)[:-1])
    with pytest.raises(DataRejected, match="only 6 of 7 expectations ran"):
        run(ingested(GOOD))


def test_expectation_that_failed_to_run() -> None:
    """A column that cannot be checked shuts the gate, whatever the allowed share."""
    import pandas as pd

    frame = pd.DataFrame({"text": ["a"], "split": [None]})
    with pytest.raises(DataRejected, match="column 'label' cannot be checked"):
        validate.examine("reviews", frame, SENTIMENT, store.home() / "data_docs")


def test_gate_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """No progress bar, no warning, no telemetry notice reaches the terminal."""
    run(ingested(GOOD))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
