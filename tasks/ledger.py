"""The history of a registered model (history.py), append-only, kept in MLflow beside it.

    entry n = {what was decided, by whom, why, on what evidence, hash of entry n − 1}
    champion = `champion` of the last entry; the registry's alias follows it

A ledger is a run of an experiment of its own, entry n its parameter `000042`. MLflow's databases
never change a parameter, and of two that are logged at once they take one: so whoever appends knows
what stood before, from whatever machine. The entry is written first, the alias moved after it.
Whoever dies in between has decided: the next promotion or rollback moves the alias (`settle`).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from tasks import store
from tasks.errors import LedgerError, SourceUnavailable
from tasks.history import FIRST, Entry, Standing, champions, faults, rolled_back
from tasks.registry import alias_version, registered, registered_since
from tasks.tracking import connect, refusals_named, run_file

CHAMPION = "champion"
LONGEST = 5000
"""Letters of an entry; of more than 6,000 MLflow would keep the first, and say nothing."""
PATIENCE = 10.0
"""Seconds until the experiment of another process that died is given its run."""
TRIES = 100
"""Moves of the alias, each undone by another process, after which something else is wrong."""
TAG = "graft.ledger"
"""What the run that has the entries is known by."""


class Ledger:
    """The history of one registered model."""

    def __init__(self, model: str) -> None:
        """Find it; it begins with its first entry.

        Raises:
            SourceUnavailable: no such model.
            TrackingError: MLflow does not answer or refuses.
        """
        self.model, self.client = model, connect()
        created = registered_since(model)  # a model of the same name that is made later is another
        self.name = f"ledger {model} {created}"
        self._run: str | None = None

    def entries(self) -> list[Entry]:
        """All decisions, oldest first, as they stand; see `verify`.

        Raises:
            LedgerError: one cannot be read, or all were deleted.
        """
        with refusals_named():
            self._run = self._run or self._found()
            params = self.client.get_run(self._run).data.params if self._run else {}
        try:
            return [Entry(**json.loads(params[name])) for name in sorted(params)]
        except (TypeError, ValueError) as error:
            raise self._fault("an entry cannot be read") from error

    def standing(self) -> Standing:
        """What is in production: the last entry's champion, or, before there is one, the alias."""
        held = self.entries()
        if not held or held[-1].champion is None:
            return Standing(self._alias(), 0)
        changes = [entry.number for entry in held if entry.champion != entry.previous]
        return Standing(held[-1].champion, changes[-1] if changes else 0)

    def append(self, over: Standing | None = None, **decided: Any) -> Entry:
        """Write a decision, and let the alias follow it.

        Args:
            over: what a new champion was compared with.
            decided: the fields of `Entry` but number, at, previous and before. Without `champion`
                the one there is stays, whichever it is.

        Raises:
            LedgerError: something else is in production than was compared with, the new champion is
                not in the registry, the history is at fault, or the reason is too long.
            TrackingError: MLflow does not answer or refuses.
        """
        with refusals_named():
            run = self._run = self._found() or self._made()
        while True:
            held = self.entries()
            if found := faults(held):
                raise self._fault(found[0])
            standing = self.standing()
            if "champion" in decided:
                if standing != over:
                    raise LedgerError(
                        f"model '{self.model}': another decision came first, and its champion is "
                        f"{_named(standing.version)}; nothing was changed, compare again"
                    )
                if registered(self.model, decided["champion"]) is None:
                    raise LedgerError(
                        f"model '{self.model}': version {decided['champion']} is gone from the "
                        "registry; nothing was changed"
                    )
            entry = Entry(
                number=held[-1].number + 1 if held else 1,
                at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                previous=standing.version,
                before=held[-1].hash if held else FIRST,
                **{"champion": standing.version, **decided},
            )
            if self._written(run, entry):
                self.settle()
                return entry

    def verify(self, known: str | None = None) -> list[Entry]:
        """Go through all of it, and the evidence it names; returns the entries.

        Args:
            known: a hash that an entry once had.

        Raises:
            LedgerError: an entry or its evidence was changed or is missing, or the alias is
                elsewhere.
        """
        held = self.entries()
        found = faults(held)
        if known and known not in {entry.hash for entry in held}:
            found.append(f"no entry has the hash {known}")
        for entry in held:
            if entry.run and entry.evidence != _digest(entry.run):
                found.append(f"the evidence of entry {entry.number} was changed or is missing")
        if held and held[-1].champion not in (None, self._alias()):
            found.append(
                f"the alias champion is at {_named(self._alias())}, the last entry says "
                f"{_named(held[-1].champion)}; the next promotion or rollback moves it"
            )
        if found:
            raise self._fault("; ".join(found))
        return held

    def settle(self) -> None:
        """Let the alias follow the last entry, also where another process died before it did.

        Raises:
            LedgerError: the champion is gone from the registry.
        """
        for _ in range(TRIES):
            wanted = self.standing().version
            if wanted in (None, self._alias()):
                return
            assert wanted is not None
            if registered(self.model, wanted) is None:
                raise LedgerError(
                    f"model '{self.model}': its champion, version {wanted}, is gone from the "
                    "registry; graft rollback makes the one before it champion again"
                )
            with refusals_named():
                self.client.set_registered_model_alias(self.model, CHAMPION, wanted)
        raise LedgerError(f"model '{self.model}': something else keeps moving the alias champion")

    def _fault(self, found: str) -> LedgerError:
        return LedgerError(
            f"model '{self.model}', its history (MLflow experiment '{self.name}'): {found}"
        )

    def _alias(self) -> str | None:
        """The version the registry's alias is at."""
        return alias_version(self.model, CHAMPION)

    def _found(self) -> str | None:
        """The run that has the entries, once there is one.

        Raises:
            LedgerError: it was deleted, or there are two.
        """
        from mlflow.entities import ViewType

        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None:
            return None
        if experiment.lifecycle_stage != "active":
            raise self._fault("it was deleted; restore it in MLflow")
        runs = self.client.search_runs(
            [experiment.experiment_id], f"tags.`{TAG}` = '{self.model}'", ViewType.ALL
        )
        if any(run.info.lifecycle_stage != "active" for run in runs):
            raise self._fault("its run was deleted; restore it in MLflow")
        written = [run for run in runs if run.data.params]
        if len(written) > 1:
            raise self._fault("there are two of it; delete the wrong run in MLflow for good")
        chosen = written or sorted(runs, key=lambda run: str(run.info.run_id))
        return str(chosen[0].info.run_id) if chosen else None

    def _made(self) -> str:
        """That run, made by whoever is the one to make its experiment."""
        from mlflow.exceptions import MlflowException

        try:
            identifier = self.client.create_experiment(self.name)
        except MlflowException:  # another is making the run
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                if found := self._found():
                    return found
                time.sleep(0.1)
            held = self.client.get_experiment_by_name(self.name)  # whoever it was has died
            if held is None:
                raise
            identifier = held.experiment_id
        tags = {TAG: self.model}
        made = self.client.create_run(identifier, run_name=f"ledger {self.model}", tags=tags)
        return self._found() or str(made.info.run_id)

    def _written(self, run: str, entry: Entry) -> bool:
        """Whether this entry is the one that has its number now; False: another was faster."""
        from mlflow.exceptions import MlflowException

        text = json.dumps(asdict(entry), ensure_ascii=False)
        if len(text) > LONGEST:
            raise LedgerError(f"the reason is too long: {len(text)} letters of {LONGEST}")
        with refusals_named():
            try:
                self.client.log_param(run, f"{entry.number:06d}", text)
            except MlflowException:
                if len(self.entries()) < entry.number:  # the number is free: something else it was
                    raise
        return self.entries()[entry.number - 1] == entry


def roll_back(model: str, to: str | None, by: str, because: str) -> Entry:
    """Make a former champion the champion again, whatever became of the one there is.

    Args:
        model: its name.
        to: the version; None: the last champion that is registered and was not rolled back.
        by: who wants it.
        because: why.

    Raises:
        LedgerError: there is no such former champion.
    """
    ledger = Ledger(model)
    entries, standing = ledger.entries(), ledger.standing()
    former = [version for version in champions(entries) if version != standing.version]
    out = rolled_back(entries)
    if to is None:
        to = next((one for one in former if one not in out and registered(model, one)), None)
        if to is None:
            named = f"; graft rollback --to takes {', '.join(former)}" if former else ""
            raise LedgerError(f"model '{model}' has no champion before that is left{named}")
    elif to not in former:
        said = "is the champion" if to == standing.version else "was never champion"
        raise LedgerError(
            f"model '{model}': version {to} {said}; accepted: {', '.join(former) or 'none'}"
        )
    return ledger.append(
        standing,
        decision="rolled_back",
        version=to,
        champion=to,
        by=by,
        because=because,
        frozen=None,
        evidence=None,
        run=None,
    )


def _digest(run: str) -> str | None:
    """Digest of the evidence that a run has."""
    try:
        return store.file_digest(run_file(run, "evidence.json"))
    except SourceUnavailable:
        return None


def _named(version: str | None) -> str:
    return f"version {version}" if version else "none"
