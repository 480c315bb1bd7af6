"""Data formats: each reader yields (line or record number, column -> value) of one file."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import DataError


@dataclass(frozen=True)
class File:
    """One data file."""

    path: Path
    place: str
    """How the user wrote it, for messages."""
    split: str | None
    name: str
    """What its rows are called after: `train.jsonl`, or where it lies below a folder that is
    searched."""


Records = Iterator[tuple[int, Mapping[str, Any]]]


BLANKS = re.compile(r"[ \t]+")
"""What parts a word from its tags; other blanks are part of it."""


def _jsonl(file: File, _header: Sequence[str] | None) -> Records:
    for number, line in enumerate(_content(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file.place}:{number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise DataError(
                f"{file.place}:{number}: expected an object, found {type(record).__name__}"
            )
        yield number, record


def _tsv(file: File, header: Sequence[str] | None) -> Records:
    """Tabs separate and nothing else has a meaning: quotes are literal."""
    lines = enumerate(_content(file).split("\n"), 1)
    cells = ((n, line.removesuffix("\r").split("\t")) for n, line in lines if line.strip())
    return _tabular(file, cells, header)


def _csv(file: File, header: Sequence[str] | None) -> Records:
    """RFC 4180: a quoted cell may hold commas, line ends and doubled quotes."""
    return _tabular(file, _csv_cells(file), header)


def _csv_cells(file: File) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(_content(file), newline=""), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{file.place}:{number}: not CSV ({error})") from error
        if cells:
            yield number, cells


def _tabular(
    file: File, lines: Iterator[tuple[int, list[str]]], header: Sequence[str] | None
) -> Records:
    """Give each line's cells the header's names."""
    if header is None:
        _, header = next(lines, (0, []))
    if len(set(header)) < len(header):
        repeated = Counter(header).most_common(1)[0][0]
        raise DataError(f"{file.place}:1: column '{repeated}' appears more than once")
    for number, cells in lines:
        if len(cells) != len(header):
            raise DataError(
                f"{file.place}:{number}: {len(cells)} cells, expected {len(header)} "
                f"({some(header)})"
            )
        yield number, dict(zip(header, cells, strict=True))


def _parquet(file: File, _header: Sequence[str] | None) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as opened:
            batches = (batch.to_pylist() for batch in opened.iter_batches())
            yield from enumerate(itertools.chain.from_iterable(batches), 1)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.place}: damaged Parquet ({error})") from error


def _conll(file: File, _header: Sequence[str] | None) -> Records:
    """A word a line, its tag in the last column, a blank line after each sentence (CoNLL-2003)."""
    first, tokens, tags = 0, list[str](), list[str]()
    for number, line in enumerate([*_content(file).split("\n"), ""], 1):
        cells = BLANKS.split(line.strip(" \t\r")) if line.strip() else []
        if cells and cells[0] != "-DOCSTART-":
            if len(cells) == 1:
                raise DataError(
                    f"{file.place}:{number}: expected a word and its tag: {line[:40]!r}"
                )
            first = first or number
            tokens.append(cells[0])
            tags.append(cells[-1])
        elif tokens:
            yield first, {"tokens": tokens, "tags": tags}
            first, tokens, tags = 0, [], []


UNMARKABLE = "overlapping-or-outside"
"""Stands in place of the tags of a row whose mentions no tags can say."""


class Unmarkable(Exception):
    """A mention overlaps another or is outside its text."""


def _cluener(file: File, _header: Sequence[str] | None) -> Records:
    """CLUENER (Xu et al. 2020): {"text": …, "label": {type: {mention: [[first, last], …]}}}.

    Each character is a token; `first` and `last` are its characters, both included. Tags can say
    neither of two mentions that overlap nor of one outside the text: the gate rejects such a row.
    """
    for number, record in _jsonl(file, None):
        try:
            characters = list(record["text"])
            tags = ["O"] * len(characters)
            for label, mentions in record["label"].items():
                for first, last in itertools.chain.from_iterable(mentions.values()):
                    places = range(first, last + 1)
                    if not places or any(tags[i : i + 1] != ["O"] for i in places):
                        raise Unmarkable
                    tags[first : last + 1] = [f"B-{label}", *[f"I-{label}"] * (last - first)]
        except Unmarkable:
            tags = [UNMARKABLE]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{file.place}:{number}: not CLUENER's format ({error!r})") from error
        yield number, {"tokens": characters, "tags": tags}


def _po(file: File, _header: Sequence[str] | None) -> Records:
    """Gettext's strings and their translations; what is not translated, or guessed, is left out."""
    import polib

    try:  # the new line keeps polib from taking the content for a file's name
        entries = polib.pofile(_content(file) + "\n").translated_entries()
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{file.place}: damaged gettext file ({error})") from error
    yield from _gettext(entries)


def _mo(file: File, _header: Sequence[str] | None) -> Records:
    """The same, compiled."""
    import polib

    try:
        entries = polib.mofile(_data(file))
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise DataError(f"{file.place}: damaged gettext file ({error})") from error
    yield from _gettext(entries)


def _gettext(entries: Iterable[Any]) -> Records:
    """`text` and `translation` of each entry but those with a plural or a context, whose text alone
    does not say which translation is meant."""
    for number, entry in enumerate(entries, 1):
        plain = not (entry.msgid_plural or entry.msgctxt)
        if plain and entry.msgid and entry.msgstr:
            line = getattr(entry, "linenum", number)  # a .mo file has no lines
            yield line, {"text": entry.msgid, "translation": entry.msgstr}


READERS: dict[str, Callable[[File, Sequence[str] | None], Records]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _tsv,
    ".parquet": _parquet,
    ".cluener": _cluener,
    ".mo": _mo,
    ".po": _po,
    ".conll": _conll,
    ".bio": _conll,
    ".iob": _conll,
}


HEADERLESS = (".csv", ".tsv", ".txt")
"""Formats whose header line may be missing."""


def _content(file: File) -> str:
    """The file as text; a byte order mark is dropped.

    Raises:
        DataError: empty, truncated, or not UTF-8.
    """
    data = _data(file).removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise DataError(f"{file.place}: the file is empty")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file.place}:{line}: not UTF-8 (byte 0x{data[error.start]:02x} at offset "
            f"{error.start}); convert the file to UTF-8"
        ) from error


def _data(file: File) -> bytes:
    """The file's bytes, unpacked.

    Raises:
        DataError: truncated.
    """
    data = file.path.read_bytes()
    if file.path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file.place}: truncated or damaged gzip ({error})") from error


def suffix(path: Path) -> str:
    """`.jsonl` for train.JSONL.gz"""
    return Path(_ungz(path)).suffix.lower()


def stem(path: Path) -> str:
    """`train` for train.jsonl.gz"""
    return Path(_ungz(path)).stem


def _ungz(path: Path) -> str:
    return path.name.removesuffix(".gz")


def some(names: Any) -> str:
    """The first few names, for messages."""
    listed = list(names)
    return ", ".join(map(str, listed[:8])) + (", …" if len(listed) > 8 else "") or "nothing"
