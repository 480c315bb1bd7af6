"""Which rows a promotion changes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tasks import flips
from tasks.load import load
from tests.project import write_writing_project
from tests.test_comparison import PIPELINE


def test_right_and_wrong(tmp_path: Path) -> None:
    """Of four rows one turns wrong and one right; texts are shown as they are, not run."""
    texts = ["fine", "<script>alert(1)</script>", "poor", "dull"]
    labels = ["positive", "positive", "negative", "negative"]
    rows = [
        {"id": str(n), "group": None, "text": text, "label": label}
        for n, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    before = [{"label": label} for label in ("positive", "positive", "positive", "negative")]
    after = [{"label": label} for label in ("positive", "negative", "negative", "negative")]
    table = flips.flips(PIPELINE, before, after, rows)
    assert table[["change", "difference", "id", "champion", "challenger"]].to_numpy().tolist() == [
        ["worse", -1.0, "1", "positive", "negative"],
        ["better", 1.0, "2", "positive", "negative"],
    ]
    flips.write(table, {"rows": 4}, tmp_path)
    page = (tmp_path / "flips.html").read_text()
    assert "1 rows worse, 1 better, of 4" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert pd.read_parquet(tmp_path / "flips.parquet").equals(table)
    same = flips.flips(PIPELINE, before, before, rows)
    assert "None of 4 rows changes" in flips.page(same, {"rows": 4})


def test_written_text(tmp_path: Path) -> None:
    """Between right and wrong: the row's own score, the largest loss first."""
    folder = write_writing_project(tmp_path)
    pipeline = load(folder / "pipelines.yaml", "toy")
    rows = [
        {"id": str(n), "group": None, "text": "x", "translation": "the cat sat on the mat today"}
        for n in range(3)
    ]
    whole, half, none = (
        {"text": text} for text in ("the cat sat on the mat today", "the cat sat on a rug", "dogs")
    )
    table = flips.flips(pipeline, [whole, half, none], [none, whole, none], rows)
    assert table["id"].tolist() == ["0", "1"]
    assert table["change"].tolist() == ["worse", "better"]
    assert 0 < table["difference"][1] < -table["difference"][0] <= 100


def test_texts_too_short_for_bleu(tmp_path: Path) -> None:
    """One word that turns right is a flip, though its BLEU is 0 either way."""
    pipeline = load(write_writing_project(tmp_path) / "pipelines.yaml", "toy")
    rows = [{"id": "0", "group": None, "text": "x", "translation": "cat"}]
    table = flips.flips(pipeline, [{"text": "dogs"}], [{"text": "cat"}], rows)
    assert table[["change", "difference"]].to_numpy().tolist() == [["better", 100.0]]
