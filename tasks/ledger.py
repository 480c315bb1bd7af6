"""What became of each version of a model: an append-only history, kept in MLflow beside it.

    entry n = {what was decided, by whom, why, on what evidence, hash of entry n − 1}
    champion = `champion` of the last entry; the registry's alias follows it

A ledger is a run of the experiment `ledger-NAME`, and entry n its parameter `000042`. MLflow never
changes a parameter, and of two that are logged at once it takes one: so whoever appends knows what
stood before, from whatever machine. The entry is written first, the alias moved after it. Whoever
dies in between has decided; `settle`, which everyone calls, moves the alias.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasks import store
from tasks.errors import LedgerError
from tasks.registry import alias_version, registered_version
from tasks.tracking import connect, refusals_named

if TYPE_CHECKING:
    pass

CHAMPION = "champion"
FIRST = "0" * 64
"""What the first entry has for the hash of the one before it."""
LONGEST = 1000
"""Letters of a reason: MLflow takes 6,000 for the whole entry."""
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


class Ledger:
    """The history of one registered model."""

    def __init__(self, model: str) -> None:
        """Find it; it begins with its first entry.

        Raises:
            SourceUnavailable: no such model.
            TrackingError: MLflow does not answer or refuses.
        """
        self.model, self.client = model, connect()
        alias_version(model, CHAMPION)
        self._run: str | None = None

    def entries(self) -> list[Entry]:
        """All decisions, oldest first, as they stand; see `verify`.

        Raises:
            LedgerError: one cannot be read.
        """
        with refusals_named():
            run = self._run or self._found()
            found = self.client.get_run(run).data.params if run else {}
        try:
            return [Entry(**json.loads(found[name])) for name in sorted(found)]
        except (TypeError, ValueError) as error:
            raise LedgerError(
                f"model '{self.model}': an entry of its history is damaged"
            ) from error

    def champion(self) -> str | None:
        """The version in production: the last entry's, or, before there is one, the alias's."""
        held = self.entries()
        return held[-1].champion if held else self._alias()

    def append(self, expected: str | None = None, **decided: Any) -> Entry:
        """Write a decision, and let the alias follow it.

        Args:
            expected: the champion that a new one was compared with.
            decided: the fields of `Entry` but number, at, previous and before. Without `champion`
                the one there is stays, whichever it is.

        Raises:
            LedgerError: there is another champion than was expected, the history is damaged, or the
                reason is too long.
            TrackingError: MLflow does not answer or refuses.
        """
        if len(decided["because"]) > LONGEST:
            raise LedgerError(f"the reason has {len(decided['because'])} letters, of {LONGEST}")
        with refusals_named():
            run = self._run = self._found() or self._made()
        while True:
            held = self.entries()
            if found := faults(held):
                raise LedgerError(f"model '{self.model}', its history: {found[0]}")
            last = held[-1] if held else None
            standing = last.champion if last else self._alias()
            if "champion" in decided and standing != expected:
                raise LedgerError(
                    f"model '{self.model}': the champion is {_named(standing)} by now, not "
                    f"{_named(expected)}; nothing was changed, compare again"
                )
            entry = Entry(
                number=last.number + 1 if last else 1,
                at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                previous=standing,
                before=last.hash if last else FIRST,
                **{"champion": standing, **decided},
            )
            if self._written(run, entry):
                self.settle()
                return entry

    def verify(self) -> None:
        """Go through all of it.

        Raises:
            LedgerError: an entry was changed or is missing, or the alias is elsewhere.
        """
        held = self.entries()
        found = faults(held)
        if held and self._alias() != held[-1].champion:
            found.append(
                f"the alias champion is at {_named(self._alias())}, the last entry says "
                f"{_named(held[-1].champion)}"
            )
        if found:
            raise LedgerError(f"model '{self.model}', its history: {'; '.join(found)}")

    def settle(self) -> None:
        """Let the alias follow the last entry, also where another process died before it did."""
        with refusals_named():
            while (wanted := self.champion()) != self._alias():
                assert wanted is not None  # an entry never ends production
                self.client.set_registered_model_alias(self.model, CHAMPION, wanted)

    def _alias(self) -> str | None:
        """The version the registry's alias is at."""
        aliases = self.client.get_registered_model(self.model).aliases
        return str(aliases[CHAMPION]) if CHAMPION in aliases else None

    def _found(self) -> str | None:
        """The run that has the entries, once there is one."""
        experiment = self.client.get_experiment_by_name(f"ledger-{self.model}")
        if experiment is None:
            return None
        oldest = ["attributes.start_time ASC"]
        runs = self.client.search_runs([experiment.experiment_id], order_by=oldest)
        return str(runs[0].info.run_id) if runs else None

    def _made(self) -> str:
        """That run, made by whoever is the one to make its experiment."""
        from mlflow.exceptions import MlflowException

        name = f"ledger-{self.model}"
        try:
            identifier = self.client.create_experiment(name)
        except MlflowException:  # another is making the run
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                if found := self._found():
                    return found
                time.sleep(0.1)
            held = self.client.get_experiment_by_name(name)  # whoever it was has died
            if held is None:
                raise
            identifier = held.experiment_id
        return str(self.client.create_run(identifier, run_name=name).info.run_id)

    def _written(self, run: str, entry: Entry) -> bool:
        """Whether this entry is the one that has its number now; False: another was faster."""
        from mlflow.exceptions import MlflowException

        text = json.dumps(asdict(entry))
        with refusals_named():
            try:
                self.client.log_param(run, f"{entry.number:06d}", text)
            except MlflowException:
                if len(self.entries()) < entry.number:  # the number is free: something else it was
                    raise
                return self.entries()[entry.number - 1] == entry
        return True


def roll_back(model: str, to: str | None, by: str, because: str) -> Entry:
    """Make an earlier version the champion again, whatever became of the files of the one there.

    Args:
        model: its name.
        to: the version; None: the champion before the one there is.
        by: who wants it.
        because: why.

    Raises:
        LedgerError: there is no earlier champion, no such version, or it is the champion.
    """
    ledger = Ledger(model)
    ledger.settle()
    held = ledger.champion()
    if to is None:
        made = [e for e in ledger.entries() if e.decision == "promoted" and e.version == held]
        if not made or made[-1].previous is None:
            raise LedgerError(f"model '{model}' had no champion before; name one with --to")
        to = made[-1].previous
    if to == held:
        raise LedgerError(f"model '{model}': version {to} is the champion")
    if not registered_version(model, to):
        raise LedgerError(f"model '{model}' has no version {to}")
    return ledger.append(
        held,
        decision="rolled_back",
        version=to,
        champion=to,
        by=by,
        because=because,
        frozen=None,
        evidence=None,
        run=None,
    )


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


def _named(version: str | None) -> str:
    return f"version {version}" if version else "none"
