"""The history of a model: decisions, each with the hash of the one before, and what follows from
them. Where they are kept: ledger.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from tasks import store

FIRST = "0" * 64
"""What the first entry has for the hash of the one before it."""

Decision = Literal["promoted", "equivalent", "rejected", "rolled_back"]


@dataclass(frozen=True)
class Entry:
    """One decision."""

    number: int
    """1, 2, …"""
    at: str
    """When: 2026-11-26T14:45:03Z."""
    decision: Decision
    """What was decided."""
    version: str
    """On which version of the model."""
    champion: str | None
    """Which version is in production from now on."""
    previous: str | None
    """Which one was before."""
    by: str
    """Who decided: a person's name, or `graft` where evidence alone did."""
    because: str
    """Why, in a sentence."""
    frozen: str | None
    """Digest of the test rows that both were scored on."""
    evidence: str | None
    """Digest of evidence.json in the MLflow run `run`."""
    run: str | None
    """The MLflow run that has the evidence."""
    before: str
    """Hash of the entry before."""

    @property
    def hash(self) -> str:
        """sha256 over everything above."""
        return store.digest(asdict(self))


@dataclass(frozen=True)
class Standing:
    """Which version is in production, and since which entry: 0 where the alias was set by hand."""

    version: str | None
    since: int


def champions(entries: Sequence[Entry]) -> list[str]:
    """Versions that were in production, the last first."""
    told = [version for entry in entries for version in (entry.previous, entry.champion)]
    return list(dict.fromkeys(version for version in reversed(told) if version))


def rolled_back(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Version -> the entry that took it out of production, unless another brought it back."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.decision == "rolled_back" and entry.previous:
            found[entry.previous] = entry
            found.pop(str(entry.champion), None)
    return found


def faults(entries: Sequence[Entry]) -> list[str]:
    """What is wrong with a history: entries that were changed or are missing."""
    found: list[str] = []
    before = FIRST
    for number, entry in enumerate(entries, 1):
        if entry.number != number:
            return [*found, f"entry {number} is missing"]
        if entry.before != before:
            found.append(f"entry {number - 1} was changed after entry {number} was written")
        before = entry.hash
    return found
