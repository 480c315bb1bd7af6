"""Content-addressed stage outputs: key -> folder, written aside and renamed.

artifacts/transfer/3f2a…/           complete: everything below is named in manifest.json
artifacts/transfer/3f2a….work/      being written; what a killed run left is picked up again
artifacts/transfer/3f2a….lock       held by the process that writes, freed by its death
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from tasks.errors import StoreError

LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "accelerate", "peft"),
    *("numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "sacrebleu", "rouge_score"),
    "great-expectations",
)
MANIFEST = "manifest.json"
UNWRITABLE = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EACCES", "EROFS", "EPERM", "ENOTDIR")
}


def home() -> Path:
    """The one folder Graft writes under: `GRAFT_HOME`, or `.graft` here."""
    return Path(os.environ.get("GRAFT_HOME", ".graft")).absolute()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files below a folder (or of a single file)."""
    if folder.is_file():
        return file_digest(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return digest({name: file_digest(folder / name) for name in names})


def digest(value: Any) -> str:
    """sha256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_version() -> str:
    """Digest of Graft's own stage code and of the libraries that compute."""
    root = Path(__file__).parent
    sources = {p.relative_to(root).as_posix(): file_digest(p) for p in sorted(root.rglob("*.py"))}
    return digest({"sources": sources, "libraries": {name: version(name) for name in LIBRARIES}})


@dataclass(frozen=True)
class Output:
    """One complete stage output. Small enough to travel between workers as JSON."""

    stage: str
    key: str
    path: Path
    cached: bool
    record: dict[str, str] = field(default_factory=dict, compare=False)
    """What the Prefect task returned."""

    def file(self, name: str) -> Path:
        """A file of this output."""
        return self.path / name

    def read_json(self, name: str) -> Any:
        """A JSON file of this output."""
        return json.loads(self.file(name).read_text(encoding="utf-8"))

    def digest(self, prefix: str = "") -> str:
        """Digest of the files whose name starts with `prefix`, as the manifest has them."""
        files = self.read_json(MANIFEST)["files"]
        return digest({name: sha for name, sha in files.items() if name.startswith(prefix)})


def stage_key(stage: str, config: Any, inputs: Mapping[str, str]) -> str:
    """The identity of a stage output: configuration, input digests and code version."""
    return digest(
        {"stage": stage, "config": config, "inputs": dict(inputs), "code": code_version()}
    )[:24]


def work_folder(stage: str, key: str) -> Path:
    """Where an output is being written, and what an interrupted or refused run left."""
    return home() / "artifacts" / stage / f"{key}.work"


def find(stage: str, key: str) -> Output | None:
    """A complete, intact output, or None where it is missing or damaged."""
    path = home() / "artifacts" / stage / key
    if not intact(path):
        return None
    return Output(stage, key, path, cached=True)


def opened(record: Mapping[str, str]) -> Output:
    """The output that another worker's record names; see `Output.record`.

    Raises:
        StoreError: it is not in this worker's store.
    """
    found = find(record["stage"], record["key"])
    if found is None:
        raise StoreError(
            f"{home()}: the store has no {record['stage']}/{record['key']}, which another worker "
            "wrote; the workers of a pipeline must share one GRAFT_HOME"
        )
    return replace(found, record=dict(record))


def intact(path: Path) -> bool:
    """Whether every file the manifest names is there with the digest it had."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(file_digest(path / name) == sha for name, sha in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def produce(stage: str, key: str, compute: Callable[[Path], None]) -> Output:
    """The output of a stage: found, or computed into a work folder and then renamed.

    `compute` gets the work folder; whatever an interrupted run left there (a checkpoint) is still
    in it. Two processes that want the same key take turns, and the second finds the first's.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    path = home() / "artifacts" / stage / key
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if found := find(stage, key):
                return found
            shutil.rmtree(path, ignore_errors=True)  # damaged
            work = work_folder(stage, key)
            work.mkdir(exist_ok=True)
            compute(work)
            seal(work)
            work.rename(path)
    return Output(stage, key, path, cached=False)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name a disk that is full, or a folder that cannot be written, in one line.

    Raises:
        StoreError: it is so; other errors pass as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise StoreError(
                f"{error.filename or path}: {error.strerror}; free space or set GRAFT_HOME to a "
                "folder that can be written"
            ) from error
        raise


def seal(work: Path) -> None:
    """Write the manifest: relative file name -> sha256."""
    names = sorted(p.relative_to(work).as_posix() for p in work.rglob("*") if p.is_file())
    files = {name: file_digest(work / name) for name in names if name != MANIFEST}
    (work / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
