"""Data formats: each reader yields (line or record number, column -> value) of one file."""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tasks import corpora
from tasks.errors import DataError
from tasks.files import File, Records, content, jsonl, some, suffix

BLANKS = re.compile(r"[ \t]+")
"""What parts a word from its tags; other blanks are part of it."""


def _tsv(file: File, header: Sequence[str] | None) -> Records:
    """Tabs separate and nothing else has a meaning: quotes are literal."""
    lines = enumerate(content(file).split("\n"), 1)
    cells = ((n, line.removesuffix("\r").split("\t")) for n, line in lines if line.strip())
    return _tabular(file, cells, header)


def _csv(file: File, header: Sequence[str] | None) -> Records:
    """RFC 4180: a quoted cell may hold commas, line ends and doubled quotes."""
    return _tabular(file, _csv_cells(file), header)


def _csv_cells(file: File) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(content(file), newline=""), strict=True)
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
    for number, line in enumerate([*content(file).split("\n"), ""], 1):
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


def _moses(file: File, _header: Sequence[str] | None) -> Records:
    """Files side by side, a text and its translation on the same line of each: train.en, train.ug.
    The endings are the columns."""
    places = {suffix(path)[1:]: path for path in (file.path, *file.beside)}
    lines = {
        column: content(replace(file, path=path)).removesuffix("\n").split("\n")
        for column, path in places.items()
    }
    counts = {column: len(found) for column, found in lines.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{n} lines of {column}" for column, n in counts.items())
        raise DataError(f"{file.place}: {told}; side by side they must be as many")
    for number, row in enumerate(zip(*lines.values(), strict=True), 1):
        yield number, dict(zip(lines, row, strict=True))


READERS: dict[str, Callable[[File, Sequence[str] | None], Records]] = {
    ".jsonl": jsonl,
    ".ndjson": jsonl,
    ".json": jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _tsv,
    ".parquet": _parquet,
    ".moses": _moses,
    ".cluener": corpora.cluener,
    ".mo": corpora.mo,
    ".po": corpora.po,
    ".chatterbot": corpora.chatterbot,
    ".chitchat": corpora.chitchat,
    ".metadata": corpora.metadata,
    ".conll": _conll,
    ".bio": _conll,
    ".iob": _conll,
}


HEADERLESS = (".csv", ".tsv", ".txt")
"""Formats whose header line may be missing."""
