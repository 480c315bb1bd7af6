from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import ingest, store
from tasks.domain import Domain, Range
from tasks.errors import ConfigError, DataError, SourceUnavailable
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.applications.translation import Translation
from tasks.learning.contracts import Application

GOOD = '{"text": "Great picture!", "label": "positive"}\n'


def rows(
    path: Path, application: Application, **options: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    planned = ingest.stage("reviews", Domain(path=str(path), **options), application)
    output = store.produce(planned.name, planned.key, planned.compute)
    return pq.read_table(output.file("rows.parquet")).to_pylist(), output.read_json("report.json")


def refused(path: Path, application: TextClassification, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        rows(path, application, **options)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    return str(error.value)


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": ["Great picture!"], "label": ["positive"]}), path)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", GOOD, 1),
        ("a.jsonl", "\n" + GOOD, 2),
        ("a.jsonl.gz", GOOD, 1),
        ("a.csv", "label,text\npositive,Great picture!\n", 2),
        ("a.csv", '\ufefflabel,text\r\npositive,"Great picture!"\r\n', 2),
        ("a.csv.gz", "label,text\npositive,Great picture!", 2),
        ("a.tsv", "label\ttext\npositive\tGreat picture!\n", 2),
        ("a.txt", "label\ttext\r\npositive\tGreat picture!\r\n", 2),
    ],
)
def test_formats_give_the_same_row(
    tmp_path: Path, classification: TextClassification, name: str, content: str, line: int
) -> None:
    """A row is the same in every format, and knows the line of the file it stands on."""
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found, _ = rows(tmp_path / name, classification)
    assert found == [
        {
            "file": name,
            "row": line,
            "text": "Great picture!",
            "label": "positive",
            "group": None,
            "split": None,
        }
    ]


def test_parquet(tmp_path: Path, classification: TextClassification) -> None:
    """A Parquet row's number is its record's."""
    parquet(tmp_path / "a.parquet")
    found, _ = rows(tmp_path / "a.parquet", classification)
    assert [(row["row"], row["text"]) for row in found] == [(1, "Great picture!")]


def test_slices(tmp_path: Path, classification: TextClassification) -> None:
    """A column that rows are told apart by is kept as it is; unlabelled rows need none."""
    told = {"text": "Great picture!", "label": "positive", "stars": 5.0}
    (tmp_path / "train.jsonl").write_text(json.dumps(told))
    (tmp_path / "unlabelled.jsonl").write_text('{"text": "Dull."}')
    found, _ = rows(tmp_path, classification, slices=("stars",))
    assert [row["slice stars"] for row in found] == ["5", None]
    says = refused(tmp_path / "train.jsonl", classification, slices=("country",))
    assert "no column 'country'" in says


def test_quotes(tmp_path: Path, classification: TextClassification) -> None:
    """CSV cells may hold commas, line ends and quotes; in TSV a quote is a character."""
    (tmp_path / "a.csv").write_text('text,label\n"one, ""two""\nthree",x\nfour,y\n')
    found, _ = rows(tmp_path / "a.csv", classification)
    assert [(r["row"], r["text"]) for r in found] == [(2, 'one, "two"\nthree'), (4, "four")]
    (tmp_path / "a.tsv").write_text('text\tlabel\n"one\tx\n')
    found, _ = rows(tmp_path / "a.tsv", classification)
    assert found[0]["text"] == '"one'


def test_unusual_line_separators_are_text(
    tmp_path: Path, classification: TextClassification
) -> None:
    """Only line feeds end a line: U+2028 and U+0085 within a text do not break a row."""
    text = "one\u2028two\u0085three"
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": text, "label": "x"}, ensure_ascii=False), encoding="utf-8"
    )
    (tmp_path / "a.csv").write_text(f"text,label\n{text},x\n", encoding="utf-8")
    for name in ("a.jsonl", "a.csv"):
        assert rows(tmp_path / name, classification)[0][0]["text"] == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "1"),
        (1.0, "1"),
        (1.5, "1.5"),
        ("1.0", "1"),
        ("-2.00", "-2"),
        (True, "true"),
        (" cafe\u0301 ", "café"),
        ("", None),
        ("  ", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_labels_are_normalised(
    tmp_path: Path, classification: TextClassification, value: object, expected: str | None
) -> None:
    """A label is one string however its tool wrote it; nothing is null."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "1.0", "label": value}))
    found, _ = rows(tmp_path / "a.jsonl", classification)
    assert found[0]["label"] == expected
    assert found[0]["text"] == "1.0"  # free text is left alone


def test_columns_header_and_group(tmp_path: Path, classification: TextClassification) -> None:
    """A file without a header gets its names from the configuration."""
    (tmp_path / "a.txt").write_bytes(b"7\t0.5\tfine\r\n7\t-2\tpoor\r\n")
    found, report = rows(
        tmp_path / "a.txt",
        classification,
        header=("review", "score", "text"),
        columns={"label": "score"},
        label_rule={"negative": Range(maximum=-0.3), "positive": Range(minimum=0.3)},
        group="review",
    )
    assert [(r["row"], r["label"], r["group"]) for r in found] == [
        (1, "positive", "7"),
        (2, "negative", "7"),
    ]
    assert report == {"rows": 2, "left_out": 0, "files": {"a.txt": 2}}


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("0.3", "positive"),
        ("0.29", None),
        ("-0.3", "negative"),
        ("-4", "negative"),
        ("n/a", "n/a"),
        ("nan", "nan"),
        ("true", "yes"),
        ("True", "yes"),
        ("5", "positive"),
    ],
)
def test_label_rule(value: str, label: str | None) -> None:
    """Bounds are included, rows in between are left out, what is no score waits for the gate."""
    rule: ingest.Rule = {
        "negative": Range(maximum=-0.3),
        "positive": Range(minimum=0.3),
        "yes": (True,),
    }
    assert ingest.apply_rule(value, rule) == label


def test_a_column_of_objects(tmp_path: Path, classification: TextClassification) -> None:
    """What is in it is a column too, as the hub's translations have it."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"said": {"en": "fine", "tr": "güzel"}, "label": "positive"}\n')
    ((row,), _) = rows(path, classification, columns={"text": "said.tr"})
    assert row["text"] == "güzel"
    assert "no column 'said.ug'; found: said.en, said.tr" in refused(
        path, classification, columns={"text": "said.ug"}
    )


def test_label_rule_with_values() -> None:
    """Listed values are compared as text; another value stays, so that the gate names it."""
    rule: ingest.Rule = {"negative": (0, "bad"), "positive": (1,)}
    assert [ingest.apply_rule(v, rule) for v in ("0", "bad", "1", "2")] == [
        "negative",
        "negative",
        "positive",
        "2",
    ]


def test_left_out_rows_are_counted(tmp_path: Path, classification: TextClassification) -> None:
    """Undecided scores are left out and reported; if that is all of them, there are no rows."""
    rule = {"negative": Range(maximum=-1), "positive": Range(minimum=1)}
    (tmp_path / "a.csv").write_text("text,label\na,0\nb,2\n")
    found, report = rows(tmp_path / "a.csv", classification, label_rule=rule)
    assert [r["text"] for r in found] == ["b"]
    assert (report["rows"], report["left_out"]) == (1, 1)
    (tmp_path / "b.csv").write_text("text,label\na,0\n")
    assert "no rows left" in refused(tmp_path / "b.csv", classification, label_rule=rule)


def test_folder_brings_its_split(tmp_path: Path, classification: TextClassification) -> None:
    """Files named after a set give their rows to it; others in the folder are not read."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl", "oos_test.jsonl", "README.md"):
        (folder / name).write_text(GOOD)
    (folder / "unlabelled.jsonl").write_text('{"text": "Who knows"}\n')
    found, _ = rows(folder, classification)
    assert sorted((r["split"], r["file"], r["label"]) for r in found if r["label"]) == [
        ("test", "test.jsonl", "positive"),
        ("train", "train.jsonl", "positive"),
        ("validation", "dev.jsonl", "positive"),
    ]
    assert [(r["text"], r["label"]) for r in found if r["split"] == "unlabelled"] == [
        ("Who knows", None)
    ]


def test_more_text(tmp_path: Path, classification: TextClassification) -> None:
    """A file of more text has Graft's columns, whatever the domain's are, and no labels."""
    (tmp_path / "data.csv").write_text("5,Fine\n")
    (tmp_path / "drift.jsonl").write_text('{"text": "Who knows", "label": "positive"}\n')
    options = {"header": ("stars", "review"), "columns": {"text": "review", "label": "stars"}}
    more = str(tmp_path / "drift.jsonl")
    found, _ = rows(tmp_path / "data.csv", classification, more_text=more, **options)
    assert [(r["text"], r["label"], r["split"]) for r in found] == [
        ("Fine", "5", None),
        ("Who knows", None, "unlabelled"),
    ]
    with pytest.raises(DataError, match="more_text is one file"):
        rows(tmp_path / "data.csv", classification, more_text=str(tmp_path), **options)


def test_folder_of_shards(tmp_path: Path, classification: TextClassification) -> None:
    """A set in several numbered Parquet files is one set."""
    for number in range(2):
        parquet(tmp_path / f"train-0000{number}-of-00002.parquet")
    found, _ = rows(tmp_path, classification)
    assert [r["split"] for r in found] == ["train", "train"]


def test_folder_with_one_file(tmp_path: Path, classification: TextClassification) -> None:
    """Whatever its name, the only data file is the data."""
    (tmp_path / "reviews.jsonl").write_text(GOOD)
    assert rows(tmp_path, classification)[0][0]["split"] is None


def test_ambiguous_folders(tmp_path: Path, classification: TextClassification) -> None:
    """Two files of one set, or several without a set, are refused by name."""
    for name in ("valid.jsonl", "dev.jsonl"):
        (tmp_path / name).write_text(GOOD)
    assert "dev.jsonl and valid.jsonl are both 'validation'" in refused(tmp_path, classification)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.jsonl", "b.csv"):
        (other / name).write_text(GOOD)
    assert "found: a.jsonl, b.csv" in refused(other, classification)


PO = """\
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "Cancel"
msgstr "ۋاز كەچ"

#, fuzzy
msgid "Guessed"
msgstr "?"

msgid "Not yet"
msgstr ""

msgctxt "verb"
msgid "Open"
msgstr "ئاچ"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d ھۆججەت"

msgid "Long"
" text"
msgstr "ئۇزۇن تېكىست"
"""


def test_gettext(tmp_path: Path) -> None:
    """Strings of .po and .mo files below a folder, all as one, each with a place of its own."""
    import polib

    for place in ("django", "wagtail/admin"):
        folder = tmp_path / place / "locale" / "ug"
        folder.mkdir(parents=True)
        polib.pofile(PO).save_as_mofile(str(folder / "django.mo"))
    (tmp_path / "readme.txt").write_text("nothing to read", encoding="utf-8")
    (tmp_path / "strings.po").write_text(PO, encoding="utf-8")
    translation = Translation(kind="translation")
    pairs = [("Cancel", "ۋاز كەچ"), ("Long text", "ئۇزۇن تېكىست")]
    po, _ = rows(tmp_path / "strings.po", translation)
    assert [(row["text"], row["translation"]) for row in po] == pairs
    assert [row["row"] for row in po] == [4, 22]
    empty = tmp_path / "empty" / "locale" / "ug"
    empty.mkdir(parents=True)
    polib.MOFile().save(str(empty / "django.mo"))  # one of many may have none
    mo, _ = rows(tmp_path, translation, files="**/locale/ug/*.mo")
    assert [(row["text"], row["translation"]) for row in mo] == pairs * 2
    assert {row["file"] for row in mo} == {
        "django/locale/ug/django.mo",
        "wagtail/admin/locale/ug/django.mo",
    }
    for pattern, says in (
        ("**/tr/*.mo", "no file matches"),
        ("../*", "must stay below"),
        ("", "is no pattern"),
        ("empty/**/*.mo", "no rows in any of its files"),
    ):
        with pytest.raises((DataError, ConfigError), match=says):
            rows(tmp_path, translation, files=pattern)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b"", "a.jsonl: the file is empty"),
        ("a.jsonl", b"\n \n", "a.jsonl: the file is empty"),
        ("a.csv", b"text,label\n", "a.csv: no rows"),
        ("a.jsonl", GOOD.encode() + b'{"text": "x', "a.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: expected an object, found list"),
        ("a.jsonl", b'{"text": ["x"]}', "a.jsonl:1 column 'text': expected text or a number"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1 column 'text': half a surrogate"),
        ("a.jsonl", b'{"text": "x", "stars": 1}', "no column 'label'; found: text, stars"),
        ("a.jsonl", GOOD.encode() + b'{"text": "caf\xe9"}', "a.jsonl:2: not UTF-8 (byte 0xe9"),
        ("a.jsonl", GOOD.encode("utf-16"), "a.jsonl:1: not UTF-8"),
        (
            "a.jsonl.gz",
            gzip.compress(GOOD.encode() * 99, mtime=0)[:-9],
            "truncated or damaged gzip",
        ),
        ("a.jsonl.gz", b"plain text", "truncated or damaged gzip"),
        ("a.csv", b"text,label\na,b\na,b,c\n", "a.csv:3: 3 cells, expected 2 (text, label)"),
        ("a.tsv", b"text\tlabel\na\n", "a.tsv:2: 1 cells, expected 2"),
        ("a.csv", b'text,label\na,b\n"a,b\nc,d\n', "a.csv:3: not CSV"),
        ("a.csv", b"text,text\na,b\n", "a.csv:1: column 'text' appears more than once"),
        ("a.parquet", b"PAR1 broken", "a.parquet: damaged Parquet"),
        ("a.mo", b"no gettext", "a.mo: damaged gettext file"),
        ("a.po", b"nonsense\n", "a.po: damaged gettext file"),
        ("a.xlsx", b"x", "a.xlsx: unknown format; accepted: .jsonl"),
    ],
)
def test_unreadable_files(
    tmp_path: Path, classification: TextClassification, name: str, data: bytes, said: str
) -> None:
    """What cannot be read as rows is refused in one line that names the file and the line."""
    (tmp_path / name).write_bytes(data)
    assert said in refused(tmp_path / name, classification)


def test_missing_file(tmp_path: Path, classification: TextClassification) -> None:
    """A file that is not there is no data error."""
    with pytest.raises(SourceUnavailable, match="no such file"):
        rows(tmp_path / "none.csv", classification)


def test_unusable_configuration(tmp_path: Path, classification: TextClassification) -> None:
    """A setting that would have no effect is refused."""
    (tmp_path / "a.jsonl").write_text(GOOD)
    with pytest.raises(ConfigError, match="`header` is for csv"):
        rows(tmp_path / "a.jsonl", classification, header=("text", "label"))


def test_text_missing_in_one_row(tmp_path: Path, classification: TextClassification) -> None:
    """A single row without text is the gate's business, not the reader's."""
    (tmp_path / "a.jsonl").write_text(GOOD + '{"label": "positive"}\n')
    assert [r["text"] for r in rows(tmp_path / "a.jsonl", classification)[0]][1] is None


def test_key_follows_from_what_matters(tmp_path: Path, classification: TextClassification) -> None:
    """Rows are read anew when data or reading rules change, and for nothing else."""

    def key(**options: Any) -> str:
        domain = Domain(path=str(tmp_path / "a.jsonl"), **options)
        return ingest.stage("reviews", domain, classification).key

    (tmp_path / "a.jsonl").write_text(GOOD)
    first = key()
    assert key(labelled=3) == first
    assert key(columns={"label": "text"}) != first
    (tmp_path / "a.jsonl").write_text(GOOD * 2)
    assert key() != first
