"""Data files as they lie on the disk: their text, and what they are called."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
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
    beside: tuple[Path, ...] = ()
    """Others that hold the same rows' other columns."""


Records = Iterator[tuple[int, Mapping[str, Any] | None]]
"""Line or record number, and column -> value; None where there is nothing to learn from."""


def content(file: File) -> str:
    """The file as text; a byte order mark is dropped.

    Raises:
        DataError: empty, truncated, or not UTF-8.
    """
    found = data(file).removeprefix(codecs.BOM_UTF8)
    if not found.strip():
        raise DataError(f"{file.place}: the file is empty")
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        line = found.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file.place}:{line}: not UTF-8 (byte 0x{found[error.start]:02x} at offset "
            f"{error.start}); convert the file to UTF-8"
        ) from error


def data(file: File) -> bytes:
    """The file's bytes, unpacked.

    Raises:
        DataError: truncated.
    """
    found = file.path.read_bytes()
    if file.path.suffix != ".gz":
        return found
    try:
        return gzip.decompress(found)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file.place}: truncated or damaged gzip ({error})") from error


def jsonl(file: File, _header: Sequence[str] | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """An object a line."""
    for number, line in enumerate(content(file).split("\n"), 1):
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
