"""What `graft serve --log` keeps of requests that say so, for `graft monitor NAME served`.

    {"params": {"log": true}, "dataframe_records": [{"text": "great film"}]}

Only a request with this member, whose value is `true`, is kept, once it was answered, and redacted
(tasks/redaction.py). MLflow's scoring JSON has `params`, and so its clients can send it.

served/NAME/2026-11-26-HOST-PID.jsonl    {"at": "…", "version": "3", "text": "great film"}

Kept by a thread of its own: nobody who asks waits for it, and what it cannot write it tells once.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tasks import store
from tasks.progress import logger
from tasks.redaction import redacted

FOLDER = "served"
BYTES = 100_000_000
"""Of one file, a process's of one day; nothing more is kept until the next day."""
LETTERS = 10_000
"""Of a text; longer ones are not kept."""
WAITING = 1000
"""Requests that wait to be written; of more, some are not kept."""

Record = tuple[str, Sequence[Mapping[str, str]]]
"""A version, and the rows it answered."""


def consents(body: bytes) -> bool:
    """Whether a request that was answered may be kept."""
    params = json.loads(body).get("params")
    return isinstance(params, dict) and params.get("log") is True


def folder(name: str) -> Path:
    """Where a model's requests are kept."""
    return store.home() / FOLDER / name


class Log:
    """Writes what it is given, when it can."""

    def __init__(self, name: str) -> None:
        """Start the thread; nothing is written yet."""
        self.name = name
        self._told = ""
        """What kept it from writing, the last time it was told."""
        self._lost = False
        self._waiting: queue.Queue[Record | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def keep(self, version: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Have rows written, at once or not at all; returns at once."""
        try:
            self._waiting.put_nowait((version, rows))
        except queue.Full:
            if not self._lost:
                logger.warning("%s: more requests than can be written; some are lost", self.name)
            self._lost = True

    def close(self, seconds: float) -> None:
        """Write what waits, for so long."""
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _write_all(self) -> None:
        while (record := self._waiting.get()) is not None:
            wrong = ""
            try:
                self._write(*record)
            except Exception as error:  # whatever it is, requests go on
                wrong = str(getattr(error, "strerror", None) or error)
            if wrong and wrong != self._told:
                logger.warning("%s: requests are not kept: %s", self.name, wrong)
            self._told = wrong

    def _write(self, version: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Append rows to the day's file, which only its owner may read."""
        now = time.gmtime()
        told = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", now), "version": version}
        lines = "".join(
            json.dumps({**told, **{n: redacted(v) for n, v in row.items()}}, ensure_ascii=False)
            + "\n"
            for row in rows
            if all(len(value) <= LETTERS for value in row.values())
        ).encode()
        place = folder(self.name)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        day = time.strftime("%Y-%m-%d", now)
        path = place / f"{day}-{socket.gethostname()}-{os.getpid()}.jsonl"
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(opened).st_size
            if size + len(lines) > BYTES:
                raise OSError(0, f"{path.name} has {BYTES:,} bytes, the most of a day")
            if os.write(opened, lines) < len(lines):  # a disk that is full in the middle
                os.ftruncate(opened, size)
                raise OSError(0, "no space left on the disk")
        finally:
            os.close(opened)


def newest(name: str, count: int) -> list[dict[str, str]]:
    """The last rows that were kept, of all processes; none, if nothing was."""
    found: list[dict[str, str]] = []
    days: dict[str, list[Path]] = {}
    for path in folder(name).glob("*.jsonl"):
        days.setdefault(path.name[:10], []).append(path)
    for day in sorted(days, reverse=True):
        rows = [row for path in days[day] for row in _read(path)]
        found = sorted(rows, key=lambda row: row["at"]) + found
        if len(found) >= count:
            break
    return found[-count:]


def _read(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a file; the last may be half written."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and "at" in row:
                    yield row
