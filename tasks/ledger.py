"""What became of each version of a model: an append-only history, kept in MLflow beside it.

    entry n = {what was decided, by whom, why, on what evidence, hash of entry n − 1}
    champion = `champion` of the last entry; the registry's alias follows it

A ledger is a run of the experiment `ledger-NAME`, and entry n its parameter `000042`. MLflow never
changes a parameter and takes just one of two that are logged at once, so whoever appends knows what
stood before, from whatever machine. The entry is written first and the alias moved after it: whoever
dies in between has decided, and `settle`, which everyone calls, moves the alias.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasks import store
from tasks.errors import LedgerError
from tasks.tracking import connect, refusals_named

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
FIRST = "0" * 64
"""What the first entry has for the hash of the one before it."""
PATIENCE = 10.0
"""Seconds until the experiment of another process that died is given its run."""

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


class Ledger:
    """The history of one registered model."""

    def __init__(self, model: str) -> None:
        """Find it, or begin it.

        Raises:
            TrackingError: MLflow does not answer or refuses.
        """
        self.model, self.client = model, connect()
        with refusals_named():
            self.run = _run_of(self.client, f"ledger-{model}")

    def entries(self) -> list[Entry]:
        """All decisions, oldest first, as they stand; see `verify`.

        Raises:
            LedgerError: one cannot be read.
        """
        with refusals_named():
            found = self.client.get_run(self.run).data.params
        try:
            return [Entry(**json.loads(found[name])) for name in sorted(found)]
        except (TypeError, ValueError) as error:
            raise LedgerError(f"ledger of '{self.model}': an entry cannot be read") from error

    def append(self, expected: str | None, **decided: Any) -> Entry:
        """Write a decision, and let the alias follow it.

        Args:
            expected: the champion that it was made against; a decision that leaves it as it is does
                not mind another one in the meantime.
            decided: the fields of `Entry` but number, at and before. `champion` may be left out:
                then it stays.

        Raises:
            LedgerError: another champion has been made since.
        """
        from mlflow.exceptions import MlflowException

        while True:
            held = self.entries()
            standing = champion(held)
            if "champion" in decided and standing != expected:
                raise LedgerError(
                    f"'{self.model}' has another champion since: {_named(standing)} and no longer "
                    f"{_named(expected)}; nothing was changed, try again against it"
                )
            last = held[-1] if held else None
            entry = Entry(
                number=last.number + 1 if last else 1,
                at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                before=last.hash if last else FIRST,
                **{"champion": standing, **decided},
            )
            try:
                self.client.log_param(self.run, f"{entry.number:06d}", json.dumps(asdict(entry)))
            except MlflowException:
                if len(self.entries()) == len(held):  # nobody else was faster: it is refused
                    with refusals_named():
                        raise
                continue
            self.settle()
            return entry

    def settle(self) -> str | None:
        """Move the alias to the last entry's champion, until it is the last one's; returns it."""
        from mlflow.exceptions import MlflowException

        while True:
            wanted = champion(self.entries())
            try:
                held = str(self.client.get_model_version_by_alias(self.model, CHAMPION).version)
            except MlflowException:
                held = None
            if held == wanted:
                return wanted
            with refusals_named():
                if wanted is None:
                    return held  # it was set by hand, before the first entry
                self.client.set_registered_model_alias(self.model, CHAMPION, wanted)


def champion(entries: Sequence[Entry]) -> str | None:
    """The version in production, by the last entry."""
    return entries[-1].champion if entries else None


def faults(entries: Sequence[Entry]) -> list[str]:
    """What is wrong with a history: entries that were changed or are missing."""
    found, before = [], FIRST
    for number, entry in enumerate(entries, 1):
        if entry.number != number:
            return [*found, f"entry {number} is missing"]
        if entry.before != before:
            found.append(f"entry {number - 1} is not what entry {number} follows on")
        before = entry.hash
    return found


def _named(version: str | None) -> str:
    return f"version {version}" if version else "none"


def _run_of(client: MlflowClient, name: str) -> str:
    """The one run of an experiment; whoever makes the experiment makes the run."""
    from mlflow.exceptions import MlflowException

    deadline = time.monotonic() + PATIENCE
    held = client.get_experiment_by_name(name)
    mine = False
    if held is None:
        try:
            identifier, mine = str(client.create_experiment(name)), True
        except MlflowException:  # another was faster
            held = client.get_experiment_by_name(name)
            assert held is not None
    if held is not None:
        identifier = str(held.experiment_id)
    while not mine:
        runs = client.search_runs([identifier], order_by=["attributes.start_time ASC"])
        if runs:
            return str(runs[0].info.run_id)
        mine = time.monotonic() > deadline  # its maker died in between
        time.sleep(0.1)
    return str(client.create_run(identifier, run_name=name).info.run_id)
