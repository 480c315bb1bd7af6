"""The folder of the benchmark sets, and files laid out as the published protocols want them.

Everything is written under GRAFT_HOME; from there on it is ordinary ingestion.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks import store
from tasks.errors import ConfigError

Cells = Iterator[tuple[str, dict[str, Any]]]
"""Target -> a pipeline without its paradigm."""


def benchmarks() -> Path:
    """The folder with the benchmark sets.

    Raises:
        ConfigError: GRAFT_BENCHMARKS does not name one.
    """
    folder = Path(os.environ.get("GRAFT_BENCHMARKS", ""))
    if not os.environ.get("GRAFT_BENCHMARKS") or not folder.is_dir():
        raise ConfigError("GRAFT_BENCHMARKS must name the folder with the benchmark sets")
    return folder


def folder(name: str) -> Path:
    """A set's folder."""
    return benchmarks() / name


def rows_of(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The rows of JSON Lines files, gz or not."""
    for path in paths:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


def laid_out(name: str, file: str, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows to a file of a set's own folder under GRAFT_HOME."""
    path = store.home() / "benchmarks" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # others may be reading it
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_text(text, encoding="utf-8")
        aside.rename(path)
    return path


def without_dev(name: str, domain: str, path: Path) -> Path:
    """A domain's training and test rows: a score on dev after each epoch would choose nothing."""
    for part in ("train", "test"):
        found = laid_out(name, f"{domain}/{part}.jsonl", rows_of(path.glob(f"{part}.jsonl*")))
    return found.parent
