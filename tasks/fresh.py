"""Fresh text for the monitor: where it comes from, and where it is kept."""

from __future__ import annotations

import json
import os
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import served, store
from tasks.drift import ROWS
from tasks.errors import DataError, DataRejected, SourceUnavailable
from tasks.inputs import is_file, read_inputs, read_table
from tasks.learning.contracts import Row
from tasks.split import text_digest
from tasks.watch import FEWEST, SERVED, Watch, apart

FOLDER = "monitor"
Grouped = tuple[dict[str, str], str | None]
"""A row, and its group."""


@dataclass(frozen=True)
class Fresh:
    """Text that was read."""

    rows: Sequence[Row]
    """All of it, as the training data has it."""
    apart: Sequence[Row]
    """One row of each group, where there is a column of groups."""


def fresh_text(watch: Watch, text: str) -> Fresh:
    """Rows from a file with the columns of the training data or with those of a request, or from
    what was served.

    Raises:
        SourceUnavailable: there is no such file, or nothing was kept.
        DataError: it cannot be read, lacks a column, or a row has no text in it.
        DataRejected: there are too few.
    """
    if text != SERVED and not is_file(Path(text)):
        raise SourceUnavailable(
            f"{text}: there is no such file; '{SERVED}' is what graft serve --log kept"
        )
    found = _kept(watch) if text == SERVED else _file(Path(text), watch)
    normal = [
        ({f: unicodedata.normalize("NFC", v).strip() for f, v in row.items()}, group)
        for row, group in found
    ]
    pairs = [(row, group) for row, group in normal if all(row.values())]
    rows = [row for row, _ in pairs]
    few = apart(rows, [group for _, group in pairs], watch.pipeline.seed)
    if len(few) < FEWEST:
        groups = "" if len(few) == len(rows) else f" of {len(few)} groups"
        raise DataRejected(
            f"{text}: {len(rows)} rows{groups}; at least {FEWEST} tell drift from chance"
        )
    return Fresh(rows, few)


def _kept(watch: Watch) -> list[Grouped]:
    """What `graft serve --log` kept; of no group."""
    application = watch.pipeline.application
    found: list[Grouped] = [
        (application.asked(row), None)
        for row in served.newest(watch.model, ROWS)
        if all(isinstance(row.get(column), str) for column in application.request)
    ]
    if not found:
        raise SourceUnavailable(
            f"{served.folder(watch.model)}: nothing was kept; graft serve {watch.model} --log "
            'keeps requests with "params": {"log": true}'
        )
    return found


def _file(path: Path, watch: Watch) -> list[Grouped]:
    """A file in either form, with its column of groups, if it has that of the training data."""
    application, domain = (
        watch.pipeline.application,
        watch.pipeline.domains[watch.pipeline.target_name],
    )
    table = read_table(path, application.request[0])
    groups: list[str | None] = [None] * len(table)
    if domain.group in table:
        separator = domain.group_separator
        names = [str(value) for value in table[domain.group]]
        groups = [name.partition(separator)[0] if separator else name for name in names]
    inputs, columns = application.inputs, set(map(str, table))
    if not set(inputs) <= columns or set(application.request) <= columns:
        asked: Any = read_inputs(str(path), application.request).to_dict("records")
        return list(zip([application.asked(one) for one in asked], groups, strict=True))
    found: list[Grouped] = []
    for number, values in enumerate(table[list(inputs)].itertuples(index=False), 1):
        texts = [value if isinstance(value, str) else _words(value) for value in values]
        if not all(texts):
            raise DataError(f"{path}: row {number}: '{inputs[0]}' holds no words")
        found.append((dict(zip(inputs, texts, strict=True)), groups[number - 1]))
    return found


def _words(value: Any) -> str:
    """["New", "York"] -> "New York"; "" for what is no list of words."""
    if not isinstance(value, Iterable):
        return ""
    items = list(value)
    return " ".join(items) if all(isinstance(item, str) for item in items) else ""


def keep(watch: Watch, rows: Sequence[Row]) -> str:
    """Write the fresh rows where a retraining can read them as unlabelled text; only the owner may.

    Raises:
        StoreError: they cannot be written.
    """
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    path = store.home() / FOLDER / watch.model / f"{day}-{text_digest(lines)[:12]}.jsonl"
    with store.writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write(lines)
    return str(path)
