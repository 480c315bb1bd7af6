"""Summarization: scores are Google's ROUGE, over one summary or the best of several."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks import ingest, store
from tasks.domain import Domain
from tasks.errors import DataError
from tasks.learning.applications.summarization import SENTENCE, Summarization

SUMMARIZATION = Summarization(kind="summarization")
ROWS = [
    {"text": "Rates rose. Banks fell. Then rain.", "summary": "Banks fell as rates rose"},
    {"text": "One sentence", "summary": "A sentence\nOne sentence it is"},
]


def test_scores_by_hand() -> None:
    """2 of 3 words in 2 of 5; the best of two summaries; the mean over the rows, times 100."""
    found = SUMMARIZATION.statistics([{"text": "rates fall hard"}, {"text": "one sentence"}], ROWS)
    # "fall" and "fell" have stems of their own; 1 right of 3 written and 5 expected.
    assert found[0].tolist() == pytest.approx([2 * 1 / (3 + 5), 0, 2 * 1 / (3 + 5), 1])
    # Of "A sentence" one word is right, of the other summary two, and one pair of words.
    assert found[1].tolist() == pytest.approx([4 / 6, 2 / 4, 4 / 6, 1])
    scores = SUMMARIZATION.scores(found.sum(0))
    assert scores["rouge1"] == pytest.approx(100 * (0.25 + 4 / 6) / 2)
    assert scores["rouge2"] == pytest.approx(25)


def test_the_floor_is_the_beginning() -> None:
    """The first sentence, or as many as are asked for; all of a text that has fewer."""
    assert [one["text"] for one in SUMMARIZATION.trivial([], ROWS)] == [
        "Rates rose.",
        "One sentence",
    ]
    two = Summarization(kind="summarization", lead=2)
    assert two.trivial([], ROWS)[0] == {"text": "Rates rose. Banks fell."}
    assert two.trivial([], [{"text": "日本語。次の文。"}]) == [{"text": "日本語。 次の文。"}]


def test_sentences() -> None:
    """Abbreviations end none, nor begin small letters one; quotation marks and figures do."""
    text = (
        'Dr. Smith of the U.S. Navy paid 3.5 mln dlrs. to Corp. shares. "No!" he said. 7 rose\nEnd'
    )
    assert SENTENCE.split(text) == [
        "Dr. Smith of the U.S. Navy paid 3.5 mln dlrs. to Corp. shares.",
        '"No!" he said.',
        "7 rose",
        "End",
    ]


def test_the_first_summary_is_learned() -> None:
    """Of several."""
    assert SUMMARIZATION.read(ROWS[1]) == "One sentence"
    assert SUMMARIZATION.reply(ROWS[1]) == "A sentence"


def test_rows(tmp_path: Path) -> None:
    """One summary or a list of them, each a line, whatever line breaks it has."""
    given = [
        {"text": "x", "summary": " Short\n one. "},
        {"text": "y", "summary": ["First.", "Second,\nlonger."]},
    ]
    path = tmp_path / "news.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    planned = ingest.stage("news", Domain(path=str(path)), SUMMARIZATION)
    output = store.produce(planned.name, planned.key, planned.compute)
    rows = pq.read_table(output.file("rows.parquet")).to_pylist()
    assert [row["summary"] for row in rows] == ["Short one.", "First.\nSecond, longer."]
    path.write_text('{"text": "x", "summary": ["a", ["b"]]}\n', encoding="utf-8")
    planned = ingest.stage("news", Domain(path=str(path)), SUMMARIZATION)
    with pytest.raises(DataError, match="column 'summary': expected text or a number"):
        store.produce(planned.name, planned.key, planned.compute)


def test_the_nearest_summary_counts() -> None:
    """All three scores are against the one that shares the most words, though another has more
    pairs of them."""
    row = {"text": "x", "summary": "f e d c b a x\na b c d y z w q"}
    (found,) = SUMMARIZATION.statistics([{"text": "a b c d e f"}], [row])
    assert found == pytest.approx([12 / 13, 0, 2 / 13, 1])


def test_novelty() -> None:
    """The share of the summary's pairs of words that the text does not have."""
    row = {"text": "Rates rose. Banks fell.", "summary": "Rates rose, then banks fell\nOther"}
    assert SUMMARIZATION.measures(row) == {"length": 4, "novelty": pytest.approx(2 / 4)}
    assert SUMMARIZATION.measures({"text": "One", "summary": "One"})["novelty"] == 0
