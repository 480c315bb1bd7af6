"""Data sets in formats of their own, and parallel text side by side."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks import ingest, store
from tasks.domain import Domain
from tasks.errors import DataError
from tasks.learning.applications.dialogue import Dialogue
from tasks.learning.applications.summarization import Summarization
from tasks.learning.applications.translation import Translation
from tasks.learning.contracts import Application

TRANSLATION = Translation(kind="translation")


def rows(application: Application, **domain: Any) -> list[dict[str, Any]]:
    planned = ingest.stage("target", Domain(**domain), application)
    output = store.produce(planned.name, planned.key, planned.compute)
    return pq.read_table(output.file("rows.parquet")).to_pylist()


def parallel(folder: Path) -> list[dict[str, Any]]:
    columns = {"text": "en", "translation": "ug"}
    return rows(TRANSLATION, path=str(folder), format="moses", columns=columns)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


def test_side_by_side(tmp_path: Path) -> None:
    """A line of each is a row; files of a split are its rows, whatever else lies there."""
    folder = write(
        tmp_path / "data",
        train_en="Open\nClose \u2028now\n",
        train_ug="ئاچ\nتاقا\n",
        test_en="Save\r\n",
        test_ug="ساقلا",
        README_md="about",
    )
    found = [
        (r["file"], r["row"], r["text"], r["translation"], r["split"]) for r in parallel(folder)
    ]
    assert found == [
        ("test", 1, "Save", "ساقلا", "test"),
        ("train", 1, "Open", "ئاچ", "train"),
        ("train", 2, "Close \u2028now", "تاقا", "train"),
    ]


def test_side_by_side_follows_both_files(tmp_path: Path) -> None:
    """A translation that was mended is read anew."""
    folder = write(tmp_path / "data", train_en="Open\n", train_ug="ئاچ\n")
    parallel(folder)
    write(folder, train_ug="تاقا\n")
    assert parallel(folder)[0]["translation"] == "تاقا"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"train_en": "a\nb\n", "train_ug": "ئا\n"},
            "train.en: 2 lines of en, 1 lines of ug; side by side they must be as many",
        ),
        ({"train_en": "a\n"}, "train.en has no file in another language beside it"),
        ({"one_en": "a\n", "two_ug": "b\n"}, "expected files side by side"),
        ({"train_en": "a\n", "train_tr": "b\n"}, "no column 'ug'; found: en, tr"),
        ({"train_en": "a\n", "train_ug": "\n"}, "the file is empty"),
        (
            {"dev_en": "a\n", "dev_ug": "b\n", "valid_en": "a\n", "valid_ug": "b\n"},
            "dev and valid are both 'validation'",
        ),
    ],
)
def test_side_by_side_refuses(tmp_path: Path, files: dict[str, str], said: str) -> None:
    """What does not match, in one line that names it."""
    with pytest.raises(DataError, match=said):
        parallel(write(tmp_path / "data", **files))


def test_a_language_twice(tmp_path: Path) -> None:
    """Packed and plain: which of them is meant is not to be guessed."""
    folder = write(tmp_path / "data", train_en="a\n", train_ug="b\n")
    (folder / "train.en.gz").write_bytes(gzip.compress(b"z\n"))
    with pytest.raises(DataError, match=r"two files are called train\.en"):
        parallel(folder)


def test_a_file_of_another_language(tmp_path: Path) -> None:
    """Under another name the same text is another column."""
    folder = write(tmp_path / "data", train_en="a\n", train_ug="b\n")
    parallel(folder)
    (folder / "train.en").rename(folder / "train.de")
    with pytest.raises(DataError, match="no column 'en'; found: de, ug"):
        parallel(folder)


def test_text_without_translations(tmp_path: Path) -> None:
    """An unlabelled file has none beside it."""
    folder = write(tmp_path / "data", train_en="a\n", train_ug="b\n", unlabelled_en="c\n")
    found = {row["split"]: row for row in parallel(folder)}
    assert (found["unlabelled"]["text"], found["unlabelled"]["translation"]) == ("c", None)


def test_a_format_finds_its_files(tmp_path: Path) -> None:
    """Whatever their names end in, they are named after a split, or there is one."""
    folder = write(tmp_path / "data", train_yml=CHATTERBOT, test_yml=CHATTERBOT)
    found = rows(Dialogue(kind="dialogue"), path=str(folder), format="chatterbot")
    assert {row["split"] for row in found} == {"train", "test"}


CHATTERBOT = """\
categories:
- health
conversations:
- - How are you?
  - Not well
  - Why?
- - 3.10
  -
  - that is a number
- - Nobody answers.
"""


def test_chatterbot(tmp_path: Path) -> None:
    """Each turn but the first is a response; conversations of several files stay apart."""
    folder = write(tmp_path / "data", health_yml=CHATTERBOT, other_yml=CHATTERBOT)
    found = rows(
        Dialogue(kind="dialogue"),
        path=str(folder),
        files="*.yml",
        format="chatterbot",
        group="conversation",
    )
    assert [(r["context"], r["response"], r["group"]) for r in found[:3]] == [
        ("How are you?", "Not well", "health.yml 1"),
        ("How are you?\nNot well", "Why?", "health.yml 1"),
        ("3.10", "that is a number", "health.yml 2"),
    ]
    assert len({r["group"] for r in found}) == 4


def test_chitchat(tmp_path: Path) -> None:
    """Messages of one turn are one text, and six turns are remembered."""
    turns = [[{"text": f"turn {i}"}, {"text": "and more"}] for i in range(9)]
    turns[3] = [{"text": " "}]  # nothing was said
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"id": {"messages": turns}}), encoding="utf-8")
    found = rows(Dialogue(kind="dialogue"), path=str(path), format="chitchat")
    assert [r["response"] for r in found] == [f"turn {i} and more" for i in (1, 2, 4, 5, 6, 7, 8)]
    assert found[-1]["context"].split("\n") == [f"turn {i} and more" for i in (1, 2, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("chatterbot", "categories: [a]"),
        ("chatterbot", "conversations: 3"),
        ("chatterbot", "a: [b"),
        ("chatterbot", "conversations: [Hello, [a, b]]"),
        ("chatterbot", "conversations: [[Why: because, a]]"),
        ("chitchat", "[1]"),
        ("chitchat", '{"a": {"messages": [[{"says": "b"}]]}}'),
        ("chitchat", "no json"),
    ],
)
def test_other_files(tmp_path: Path, kind: str, content: str) -> None:
    """What is not in the format is said so."""
    path = tmp_path / "data.any"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"data.any: not (ChatterBot|Chit-Chat)'s format"):
        rows(Dialogue(kind="dialogue"), path=str(path), format=kind)


def test_installed_packages() -> None:
    """What this Python's own packages say of themselves; those without a README are left out."""
    found = rows(
        Summarization(kind="summarization"),
        path="installed:",
        files="*.dist-info/METADATA",
        format="metadata",
        columns={"text": "description"},
    )
    told = {row["file"].partition("-")[0]: row for row in found}
    assert "pydantic" in told
    assert told["pydantic"]["summary"] == "Data validation using Python type hints"
    assert all(row["text"] and row["summary"] for row in found)
    assert len(found) > 100


@pytest.mark.parametrize(
    "content",
    [
        "Name: a\nSummary: UNKNOWN\n\nAbout a.",
        "Name: a\nSummary: Says a\n\n \n",
        "Name: a\nSummary: Says a\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\na\n--x--\n",
    ],
)
def test_packages_that_say_nothing(tmp_path: Path, content: str) -> None:
    """They are no rows."""
    write(tmp_path / "data", METADATA_=content)
    write(tmp_path / "more", METADATA_="Name: b\nSummary: Says b\n\nAbout b.")
    found = rows(
        Summarization(kind="summarization"),
        path=str(tmp_path),
        files="*/METADATA.",
        format="metadata",
        columns={"text": "description"},
    )
    assert [(row["text"], row["summary"]) for row in found] == [("About b.", "Says b")]
