"""Fresh text for the monitor: where it comes from, and where it is kept."""

from __future__ import annotations

import json
import os
import time
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks import served, store
from tasks.drift import ROWS
from tasks.errors import DataError, DataRejected, SourceUnavailable
from tasks.inputs import is_file, read_inputs, read_table
from tasks.learning.contracts import Application, Row
from tasks.split import text_digest
from tasks.watch import FEWEST, SERVED, Watch

FOLDER = "monitor"


def fresh_rows(watch: Watch, text: str) -> list[Row]:
    """Rows as the training data has them, from a file with its columns or with those of a request,
    or from what was served.

    Raises:
        SourceUnavailable: there is no such file, or nothing was kept.
        DataError: it cannot be read, lacks a column, or a row has no text in it.
        DataRejected: there are too few.
    """
    application = watch.pipeline.application
    if text == SERVED:
        kept = served.newest(watch.model, ROWS)
        known = [
            row for row in kept if all(isinstance(row.get(c), str) for c in application.request)
        ]
        if not known:
            raise SourceUnavailable(
                f"{served.folder(watch.model)}: nothing was kept; graft serve {watch.model} --log "
                'keeps requests with "params": {"log": true}'
            )
        rows = [application.asked(row) for row in known]
    elif not is_file(Path(text)):
        raise SourceUnavailable(
            f"{text}: there is no such file; '{SERVED}' is what graft serve --log kept"
        )
    else:
        rows = list(_read(Path(text), application))
    rows = [{f: unicodedata.normalize("NFC", v).strip() for f, v in row.items()} for row in rows]
    rows = [row for row in rows if all(row.values())]
    if len(rows) < FEWEST:
        raise DataRejected(f"{text}: {len(rows)} rows; at least {FEWEST} tell drift from chance")
    return list(rows)


def _read(path: Path, application: Application) -> list[dict[str, str]]:
    """A file in either form."""
    table = read_table(path, application.request[0])
    inputs, columns = application.inputs, set(map(str, table))
    if not set(inputs) <= columns or set(application.request) <= columns:
        asked = read_inputs(str(path), application.request)
        requests: list[dict[str, Any]] = asked.to_dict("records")  # type: ignore[assignment]
        return [application.asked(request) for request in requests]
    found = []
    for number, values in enumerate(table[list(inputs)].itertuples(index=False), 1):
        texts = [value if isinstance(value, str) else _words(value) for value in values]
        if not all(texts):
            raise DataError(f"{path}: row {number}: '{inputs[0]}' holds no words")
        found.append(dict(zip(inputs, texts, strict=True)))
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
