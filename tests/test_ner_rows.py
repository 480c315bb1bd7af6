"""Tagged sentences on their way through reading, the gate and the split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks import ingest, store, validate
from tasks.config import Validation
from tasks.domain import Domain
from tasks.errors import DataError, DataRejected
from tasks.learning.applications.ner import Ner

NER = Ner(kind="ner", labels=("person", "place"))
STRICT = Ner(kind="ner", labels=("person", "place"), invalid_bio="refuse")
ROW = {"tokens": ["Merkel", "left", "New York"], "tags": ["B-person", "O", "B-place"]}


def ingested(path: Path, application: Ner = NER, **options: Any) -> store.Output:
    planned = ingest.stage("news", Domain(path=str(path), **options), application)
    return store.produce(planned.name, planned.key, planned.compute)


def rows(path: Path, **options: Any) -> list[tuple[int, str, str]]:
    table = pq.read_table(ingested(path, **options).file("rows.parquet"))
    return [(row["row"], row["tokens"], row["tags"]) for row in table.to_pylist()]


def gate(path: Path, application: Ner = NER, reject_over: float = 0.9) -> list[dict[str, Any]]:
    planned = validate.stage(
        "news", ingested(path, application), application, Validation(reject_over=reject_over)
    )
    output = store.produce(planned.name, planned.key, planned.compute)
    return [json.loads(line) for line in output.file("quarantine.jsonl").open(encoding="utf-8")]


def written(folder: Path, *found: dict[str, Any]) -> Path:
    path = folder / "news.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def test_lists_become_strings(tmp_path: Path) -> None:
    """A blank between items, and none inside one."""
    assert rows(written(tmp_path, ROW)) == [(1, "Merkel left New_York", "B-person O B-place")]


def test_conll(tmp_path: Path) -> None:
    """First and last column of each line; a row stands where its sentence starts."""
    path = tmp_path / "news.conll"
    path.write_text(
        "-DOCSTART- -X- O O\n\nMerkel NNP I-NP B-person\nleft VBD O O\n\n\nBonn NNP I-NP B-place",
        encoding="utf-8",
    )
    assert rows(path) == [(3, "Merkel left", "B-person O"), (7, "Bonn", "B-place")]


def test_format_overrides_the_name(tmp_path: Path) -> None:
    """A .txt file may hold CoNLL's columns, if the configuration says so."""
    path = tmp_path / "news.txt"
    path.write_text("Bonn B-place\n", encoding="utf-8")
    assert rows(path, format="conll") == [(1, "Bonn", "B-place")]


def test_conll_without_a_tag(tmp_path: Path) -> None:
    """A line that lacks its tag is named."""
    path = tmp_path / "news.conll"
    path.write_text("Bonn B-place\nwas\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"news\.conll:2: expected a word and its tag"):
        rows(path)


def test_other_schemes(tmp_path: Path) -> None:
    """BMES, BIOES and BILOU become BIO."""
    found = {
        "tokens": list("abcdef"),
        "tags": ["B-place", "M-place", "E-place", "S-person", "U-person", "O"],
    }
    assert rows(written(tmp_path, found))[0][2] == ("B-place I-place I-place B-person B-person O")


def test_cluener(tmp_path: Path) -> None:
    """Spans over characters, both ends included, become a tag a character."""
    path = written(tmp_path, {"text": "叶在 京城", "label": {"place": {"京城": [[3, 4]]}}})
    assert rows(path, format="cluener") == [(1, "叶 在 _ 京 城", "O O O B-place I-place")]
    path = written(tmp_path, {"text": "x", "label": ["place"]})
    with pytest.raises(DataError, match=r"news\.jsonl:1: not CLUENER"):
        rows(path, format="cluener")
    for first, last in ((1, 1), (2, 5), (-1, -1)):  # overlaps the other, or is outside
        mentions = {"place": {"bc": [[1, 2]], "x": [[first, last]]}}
        path = written(tmp_path, {"text": "abcd", "label": mentions})
        assert rows(path, format="cluener") == [(1, "a b c d", "overlapping-or-outside")]


def test_label_rule_maps_the_labels_of_tags(tmp_path: Path) -> None:
    """{person: [PER]} turns B-PER into B-person; what the rule does not know stays."""
    found = {"tokens": ["a", "b", "c"], "tags": ["B-PER", "I-PER", "B-place"]}
    rule = {"person": ("PER",)}
    assert rows(written(tmp_path, found), label_rule=rule)[0][2] == "B-person I-person B-place"


def test_labels_that_become_one_stay_two_entities(tmp_path: Path) -> None:
    """IOB1 parts neighbours by their labels alone, which a rule may make the same."""
    found = {"tokens": list("abcde"), "tags": ["I-LOC", "I-PER", "I-PER", "O", "I-PER"]}
    rule = {"name": ("LOC", "PER")}
    expected = "I-name B-name I-name O I-name"
    assert rows(written(tmp_path, found), label_rule=rule)[0][2] == expected


def test_blanks_within_a_word(tmp_path: Path) -> None:
    """CoNLL's columns are parted by blanks and tabs; other white space is part of the word."""
    path = tmp_path / "news.conll"
    path.write_text("New\u00a0York\tB-place\n\u3000\tO\n", encoding="utf-8")
    assert rows(path) == [(1, "New_York _", "B-place O")]


@pytest.mark.parametrize("item", [["a"], {"b": 1}])
def test_items_within_items(tmp_path: Path, item: Any) -> None:
    """A token is text or a number."""
    with pytest.raises(DataError, match="expected text or a number, found list"):
        rows(written(tmp_path, {"tokens": ["a", item], "tags": ["O", "O"]}))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags", "not as many items as 'tokens'"),
        ({"tokens": ["a"], "tags": ["B-thing"]}, "tags", "accepted: O, and B- and I- with person"),
        ({"tokens": ["a", "", "b"], "tags": ["O", "O", "O"]}, "tokens", "none of them empty"),
        ({"tokens": ["a"]}, "tags", "is empty"),
        ({"tokens": ["a"], "tags": ["overlapping-or-outside"]}, "tags", "accepted: O, and B-"),
        ({"tokens": [], "tags": []}, "tokens", "is empty"),
    ],
)
def test_gate(tmp_path: Path, row: dict[str, Any], column: str, reason: str) -> None:
    """Each row that is not as it should be goes to quarantine with its reason."""
    found = gate(written(tmp_path, ROW, row))
    assert {one["row"] for one in found} == {2}
    assert [one for one in found if one["column"] == column and reason in one["reason"]]


@pytest.mark.integration
def test_gate_on_invalid_bio(tmp_path: Path) -> None:
    """An I that continues nothing is repaired later, or refused, as configured."""
    path = written(tmp_path, ROW, {"tokens": ["a", "b"], "tags": ["O", "I-person"]})
    assert gate(path) == []
    (found,) = gate(path, STRICT)
    assert (found["row"], found["column"]) == (2, "tags")
    assert "continues nothing" in found["reason"]
    with pytest.raises(DataRejected, match=r"news\.jsonl:2"):
        gate(path, STRICT, reject_over=0.0)
