"""From files as they come to typed, normalised rows in Parquet: `rows.parquet`, `report.json`.

    file          row  text             label     group  split
    train.jsonl     7  Great picture!   positive  null   train

`row` is the line a text file has the row on, so that every later complaint can name it.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import store
from tasks.domain import Domain, Range
from tasks.errors import ConfigError, DataError
from tasks.fetch import fetch
from tasks.files import File, some, stem, suffix
from tasks.formats import HEADERLESS, READERS
from tasks.learning.contracts import Application, Rule
from tasks.stage import Stage

SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
    "unsupervised": "unlabelled",
}
"""What a file in a folder may be called -> the set its rows belong to."""
SHARD = re.compile(r"-\d+-of-\d+$")
SCHEMES = {"M": "I", "E": "I", "L": "I", "S": "B", "U": "B"}
"""What the prefixes of other tagging schemes are in BIO."""
BLANKS = re.compile(r"\s+")
WHOLE_NUMBER = re.compile(r"[+-]?\d+\.0+")
SHAPING = {"format", "header", "columns", "label_rule", "group", "group_separator", "slices"}
"""What of a domain's configuration shapes its rows."""

Labels = Mapping[str, Sequence[str | int | bool] | Range]
MORE_TEXT = "more_text"
"""What the name of a file begins with that is no part of the domain's own data."""
ANYTHING = Rule()
"""What the group and the columns of slices must be."""


def stage(name: str, domain: Domain, application: Application) -> Stage:
    """Plan a domain's ingestion; fetches, since the data's digest is part of the key.

    Raises:
        SourceUnavailable: see `fetch`.
        DataError: a folder without data files.
    """
    found = fetch(domain.path, domain.revision, "datasets")
    if domain.files is not None:
        files = matching(found, domain.path, domain.files)
    elif domain.format == "moses":
        files = side_by_side(found, domain.path)
    else:
        files = data_files(found, domain.path, any_ending=domain.format is not None)
    if domain.more_text is not None:
        files.append(further(fetch(domain.more_text, None, "datasets"), domain.more_text))
    return Stage(
        name="ingest",
        subject=name,
        config={
            "fields": {
                f: [rule.values is not None, rule.items, rule.several, rule.turns, rule.tags]
                for f, rule in application.fields.items()
            },
            "inputs": application.inputs,
            "rule_order": list(domain.label_rule or {}),
            **domain.model_dump(mode="json", include=SHAPING),
        },
        inputs={
            f"{f.split or ''}/{f.name}{suffix(p) if f.beside else ''}": store.file_digest(p)
            for f in files
            for p in (f.path, *f.beside)
        },
        compute=lambda folder: ingest(files, domain, application, folder),
    )


def data_files(path: Path, place: str, *, any_ending: bool = False) -> list[File]:
    """The one file, or those of a folder that are named after a split; `any_ending`: whatever their
    names end in.

    Raises:
        DataError: no data file, several that are not named so, or two of one split.
    """
    if path.is_file():
        return [File(path, place, None, path.name)]
    found = [
        p for p in sorted(path.iterdir()) if p.is_file() and (any_ending or suffix(p) in READERS)
    ]
    named = [(SPLITS[s], p) for p in found if (s := SHARD.sub("", stem(p)).lower()) in SPLITS]
    for split, count in Counter(split for split, _ in named).items():
        alike = [p for s, p in named if s == split]
        if count > 1 and not all(SHARD.search(stem(p)) for p in alike):
            raise DataError(f"{place}: {alike[0].name} and {alike[1].name} are both '{split}'")
    if named:
        return [File(p, f"{place}/{p.name}", split, p.name) for split, p in named]
    if len(found) == 1:
        return [File(found[0], f"{place}/{found[0].name}", None, found[0].name)]
    raise DataError(
        f"{place}: expected files named train, validation (or dev), test, unlabelled, or one data "
        f"file ({', '.join(READERS)}; .gz too); found: {some([p.name for p in found])}"
    )


def further(path: Path, place: str) -> File:
    """A file of unlabelled text beside the domain's own data.

    Raises:
        DataError: it is a folder.
    """
    if not path.is_file():
        raise DataError(f"{place}: more_text is one file ({', '.join(READERS)})")
    return File(path, place, "unlabelled", f"{MORE_TEXT}: {path.name}")


def side_by_side(folder: Path, place: str) -> list[File]:
    """Files of the same stem as one: train.en with train.ug, test.en with test.ug.

    Raises:
        DataError: it is no folder, a file has none beside it, or stems are not named after splits.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and path.suffix:
            found.setdefault(stem(path), []).append(path)
    named = {name: paths for name, paths in found.items() if name.lower() in SPLITS} or found
    if not named or (len(named) > 1 and named is found):
        raise DataError(
            f"{place}: expected files side by side, train.en with train.ug, test.en with test.ug; "
            f"found: {some(path.name for paths in found.values() for path in paths)}"
        )
    for name, paths in named.items():
        split = SPLITS.get(name.lower())
        if len(paths) == 1 and split != "unlabelled":
            raise DataError(f"{place}: {paths[0].name} has no file in another language beside it")
        endings = Counter(suffix(path) for path in paths)
        if twice := [ending for ending, count in endings.items() if count > 1]:
            raise DataError(f"{place}: two files are called {name}{twice[0]}")
        if others := [n for n in named if n != name and split and SPLITS[n.lower()] == split]:
            raise DataError(f"{place}: {name} and {others[0]} are both '{split}'")
    return [
        File(first, f"{place}/{first.name}", SPLITS.get(name.lower()), name, tuple(others))
        for name, (first, *others) in named.items()
    ]


def matching(folder: Path, place: str, pattern: str) -> list[File]:
    """The files below a folder that a pattern names, none with a split of its own.

    Raises:
        ConfigError: the pattern leads out of the folder, or is none.
        DataError: there is none.
    """
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ConfigError(f"{place}: files '{pattern}' must stay below the path")
    try:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{place}: files '{pattern}' is no pattern ({error})") from error
    if not found:
        raise DataError(f"{place}: no file matches files '{pattern}'")
    names = [path.relative_to(folder).as_posix() for path in found]
    return [File(path, f"{place}/{n}", None, n) for path, n in zip(found, names, strict=True)]


def ingest(files: Sequence[File], domain: Domain, application: Application, folder: Path) -> None:
    """Write `rows.parquet` and `report.json`.

    Raises:
        DataError: a file that is empty, damaged, wrongly encoded, ragged, or lacks a column; the
            message names the file and, where there is one, the line.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    slices = domain.slice_columns.values()
    names = ("file", "row", *application.fields, "group", *slices, "split")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    left_out = 0
    labels = [f for f, rule in application.fields.items() if rule.values or rule.tags]
    for file in files:
        own = not file.name.startswith(MORE_TEXT)
        for number, values in _rows(file, domain if own else plain(domain), application):
            if values is None:
                left_out += 1
                continue
            if domain.label_rule is not None:
                relabelled = {
                    field: relabel(value, application.fields[field], domain.label_rule)
                    for field in labels
                    if (value := values[field]) is not None
                }
                values |= relabelled
                if None in relabelled.values():
                    left_out += 1
                    continue
            row = {"file": file.name, "row": number, **values, "split": file.split}
            for name, column in columns.items():
                column.append(row[name])
    if not columns["row"] and not left_out:
        raise DataError(f"{domain.path}: no rows in any of its files")
    if not columns["row"]:
        why = "label_rule puts them in no range" if domain.label_rule else "nobody responds in them"
        raise DataError(f"{domain.path}: no rows left; all {left_out} are left out, since {why}")
    types = {name: pa.int64() if name == "row" else pa.string() for name in columns}
    pq.write_table(pa.table(columns, schema=pa.schema(types.items())), folder / "rows.parquet")
    report = {
        "rows": len(columns["row"]),
        "left_out": left_out,
        "files": dict(Counter(columns["file"])),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


def plain(domain: Domain) -> Domain:
    """How a file is read that has Graft's own names for its columns."""
    usual = ("files", "format", "header", "columns", "group", "group_separator")
    fields = Domain.model_fields
    return domain.model_copy(update={name: fields[name].get_default() for name in usual})


def apply_rule(value: str, rule: Labels) -> str | None:
    """The label that `value` means; None: a score outside all ranges, whose row is left out.

    A value that the rule does not know stays as it is, so that the gate names and rejects it.
    """
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    ranged = False
    for label, accepted in rule.items():
        if isinstance(accepted, Range):
            ranged = True
            if accepted.lowest <= score <= accepted.highest:  # false for nan
                return label
        elif any(value in _spellings(one) for one in accepted):
            return label
    return None if ranged and math.isfinite(score) else value


def relabel(value: str, field: Rule, rule: Labels) -> str | None:
    """The rule on a label, or on that of each tag: by {person: [PER]}, B-PER O is B-person O.

    Where two labels become one, an entity still ends where the other began: by {name: [LOC, PER]},
    I-LOC I-PER is I-name B-name.
    """
    if not field.tags:
        return apply_rule(value, rule)
    found, before = [], ("", "")
    for prefix, dash, label in (tag.partition("-") for tag in value.split(" ")):
        after = apply_rule(label, rule) or "" if dash else ""
        other = prefix == "I" and after == before[1] and label != before[0]
        found.append(("B" if other else prefix) + dash + after)
        before = (label, after)
    return " ".join(found)


def _spellings(value: str | int | bool) -> tuple[str, ...]:
    """YAML's true is JSON's true and Python's True."""
    text = str(value)
    return (text, text.lower(), text.upper()) if isinstance(value, bool) else (text,)


def _rows(
    file: File, domain: Domain, application: Application
) -> Iterator[tuple[int, dict[str, str | None] | None]]:
    """Each row's number, and its fields, group and slices as normalised strings; None for what has
    nothing to learn from."""
    # What unlabelled files say beyond the input is neither to be believed nor to be rejected.
    fields = application.inputs if file.split == "unlabelled" else tuple(application.fields)
    wanted = {field: domain.columns.get(field, field) for field in fields}
    if domain.group is not None:
        wanted["group"] = domain.group
    ending = f".{domain.format}" if domain.format else suffix(file.path)
    reader = READERS.get(ending)
    if reader is None:
        raise DataError(f"{file.place}: unknown format; accepted: {', '.join(READERS)}, and .gz")
    if domain.header is not None and ending not in HEADERLESS:
        raise ConfigError(f"{file.place}: `header` is for csv, tsv and txt files only")
    if file.split != "unlabelled":
        wanted |= {name: column for column, name in domain.slice_columns.items()}
    blank = dict.fromkeys((*application.fields, "group", *domain.slice_columns.values()))
    present: dict[str, None] = {}
    count = 0
    for number, found in reader(file, domain.header):
        count += 1
        if found is None:
            yield number, None
            continue
        record = unfolded(found)
        present.update(dict.fromkeys(record))
        row: dict[str, str | None] = dict(blank)
        for field, column in wanted.items():
            value, rule = record.get(column), application.fields.get(field, ANYTHING)
            if rule.items:
                value = _joined(value, in_bio if rule.tags else str)
            if rule.several:
                value = _lines(value)
            if rule.turns:
                value = turns(value)
            row[field] = _text(value, rule.values is not None, file, number, column)
        if domain.group_separator and row["group"] is not None:
            row["group"] = row["group"].partition(domain.group_separator)[0]
        row["group"] = row["group"] or None
        yield number, row
    if count == 0 and domain.files is not None:
        return  # one of many, which may have none
    if count == 0:
        raise DataError(f"{file.place}: no rows")
    missing = [column for column in wanted.values() if column not in present]
    if missing and present:
        raise DataError(f"{file.place}: no column '{missing[0]}'; found: {some(present)}")


def unfolded(record: Mapping[str, Any]) -> dict[str, Any]:
    """With what is in its objects as columns: {"translation": {"tr": "Ayarlar"}} has
    "translation.tr", too."""
    inner = {
        f"{column}.{name}": value
        for column, told in record.items()
        if isinstance(told, dict)
        for name, value in told.items()
    }
    return {**inner, **record}


def _joined(value: Any, written: Callable[[str], str]) -> Any:
    """["New", "York", "is"] -> "New York is"; a blank inside an item would make two of it."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list) or any(isinstance(item, (list, dict)) for item in value):
        return value
    items = ["" if item is None else str(item) for item in value]
    return " ".join(written(BLANKS.sub("_", item)) for item in items)


def _lines(value: Any) -> Any:
    """["A short one.", "Another."] -> a line each; a text's own line breaks become blanks."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        return value
    return "\n".join(BLANKS.sub(" ", text.strip()) for text in texts)


def turns(value: Any) -> Any:
    """[{"role": "user", "content": "Hello."}, "Good day."] -> "user: Hello.", "Good day." a line
    each."""
    given = value.splitlines() if isinstance(value, str) else value
    if not isinstance(given, list):
        return value
    said = [
        f"{one.get('role') or ''}: {one['content']}".removeprefix(": ")
        if isinstance(one, dict) and isinstance(one.get("content"), str)
        else one
        for one in given
    ]
    return _lines([turn for turn in said if not isinstance(turn, str) or turn.strip()])


def in_bio(tag: str) -> str:
    """A tag of BMES, BIOES or BILOU as BIO: M, E, L go on with an entity, S and U are all of it."""
    prefix, dash, label = tag.partition("-")
    return SCHEMES.get(prefix, prefix) + dash + label if dash else tag


def _text(value: Any, closed: bool, file: File, number: int, column: str) -> str | None:
    """1.0 -> "1", true -> "true", " e\u0301 " -> "é", "" -> None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (int, float)):
        return repr(value)
    place = f"{file.place}:{number} column '{column}'"
    if not isinstance(value, str):
        raise DataError(f"{place}: expected text or a number, found {type(value).__name__}")
    text = unicodedata.normalize("NFC", value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: half a surrogate pair, which is no character") from None
    # "1.0" in free text is text; as a label it is a number that some tool wrote as a float.
    return (text.partition(".")[0] if closed and WHOLE_NUMBER.fullmatch(text) else text) or None
