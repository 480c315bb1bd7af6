"""The history of a model: what it promises when many write, and when someone dies or cheats."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.console import console
from flows.evidence import history_table
from tasks import ledger, registry, tracking
from tasks.errors import LedgerError, SourceUnavailable, TrackingError
from tasks.history import Entry, Standing, faults
from tasks.ledger import Ledger, roll_back
from tests.project import environment

NOBODY = {"by": "graft", "because": "", "frozen": None, "evidence": None, "run": None}


def registered(versions: int, model: str = "reviews") -> Ledger:
    """A model with so many versions, of nothing."""
    client = tracking.connect()
    client.create_registered_model(model)
    for _ in range(versions):
        client.create_model_version(model, source="file:///none")
    return Ledger(model)


def alias(model: str = "reviews") -> Any:
    """The version the registry calls champion."""
    return tracking.connect().get_registered_model(model).aliases.get("champion")


def promoted(history: Ledger, version: str, over: Standing | None = None) -> Entry:
    """A promotion over what stands now, or stood."""
    over = over or history.standing()
    return history.append(over, decision="promoted", version=version, champion=version, **NOBODY)


def test_entries_follow_each_other() -> None:
    """Each carries the hash of the one before; the alias is where the last one says."""
    history = registered(3)
    assert history.standing() == Standing(None, 0)
    first = promoted(history, "1")
    second = history.append(decision="rejected", version="2", **NOBODY)
    third = promoted(history, "3")
    assert Ledger("reviews").entries() == [first, second, third]
    assert [entry.number for entry in (first, second, third)] == [1, 2, 3]
    assert (second.before, third.before) == (first.hash, second.hash)
    assert (second.champion, third.previous, third.champion) == ("1", "1", "3")
    assert history.verify(second.hash) == [first, second, third]
    assert history.standing() == Standing("3", 3)
    assert str(alias()) == "3"


def test_one_that_came_too_late() -> None:
    """A promotion over what does not stand any more changes nothing, even where the champion is the
    same one again; a rejection counts."""
    history = registered(3)
    promoted(history, "1")
    before = history.standing()
    promoted(history, "2")
    with pytest.raises(LedgerError, match="its champion is version 2; nothing was changed"):
        promoted(Ledger("reviews"), "3", before)
    roll_back("reviews", None, "ann", "")
    assert history.standing().version == before.version
    with pytest.raises(LedgerError, match="its champion is version 1; nothing was changed"):
        promoted(Ledger("reviews"), "2", before)
    assert len(history.entries()) == 3
    assert history.append(decision="rejected", version="3", **NOBODY).champion == "1"


def test_a_champion_that_was_set_by_hand() -> None:
    """It is what an entry follows on that knows of no champion."""
    history = registered(2)
    history.append(decision="rejected", version="1", **NOBODY)
    tracking.connect().set_registered_model_alias("reviews", "champion", "1")
    assert history.standing() == Standing("1", 0)
    history.settle()
    assert promoted(history, "2").previous == "1"


def test_what_was_changed_or_is_missing() -> None:
    """A changed entry no longer has the hash that the next one carries; of the last one whoever
    wrote its hash down can tell."""
    history = registered(3)
    for version in ("1", "2", "3"):
        promoted(history, version)
    first, second, third = history.entries()
    changed = Entry(**{**vars(second), "because": "so that it looks better"})
    assert faults([first, changed, third]) == ["entry 2 was changed after entry 3 was written"]
    assert faults([first, third]) == ["entry 2 is missing"]
    with pytest.raises(LedgerError, match="no entry has the hash 12ab"):
        history.verify("12ab")


def test_evidence_that_is_gone() -> None:
    """An entry names the digest of what its run has; without it the history is not whole."""
    history = registered(1)
    client = tracking.connect()
    run = client.create_run(client.create_experiment("toy")).info.run_id
    client.log_text(run, "{}", "evidence.json")
    digest = hashlib.sha256(b"{}").hexdigest()
    kept = {**NOBODY, "run": run, "evidence": digest}
    history.append(history.standing(), decision="promoted", version="1", champion="1", **kept)
    assert len(history.verify()) == 1
    client.log_text(run, "{ }", "evidence.json")
    with pytest.raises(LedgerError, match="the evidence of entry 1 was changed or is missing"):
        history.verify()


def test_deleted_in_mlflow() -> None:
    """A history that was deleted is no empty one; the refusal says what to do."""
    history = registered(2)
    promoted(history, "1")
    run = str(history._run)
    tracking.connect().delete_run(run)
    with pytest.raises(LedgerError, match="its run was deleted; restore it in MLflow"):
        Ledger("reviews").entries()
    tracking.connect().restore_run(run)
    promoted(Ledger("reviews"), "2")
    experiment = tracking.connect().get_run(run).info.experiment_id
    tracking.connect().delete_experiment(experiment)
    with pytest.raises(LedgerError, match="it was deleted; restore it in MLflow"):
        Ledger("reviews").entries()


def test_a_model_that_is_made_again() -> None:
    """It has a history of its own, though it has the name of another."""
    promoted(registered(1), "1")
    tracking.connect().delete_registered_model("reviews")
    assert registered(1).entries() == []


@pytest.mark.parametrize("reason", ["中" * 900, 'see [/issue] 7, [bold]\n"no"'])
def test_any_reason(reason: str) -> None:
    """Letters of any script, and what a terminal or JSON would take for its own, come back."""
    history = registered(1)
    history.append(decision="rejected", version="1", **{**NOBODY, "because": reason})
    (entry,) = Ledger("reviews").verify()
    assert entry.because == reason
    console.print(history_table("reviews", [entry]))


def test_a_reason_that_is_too_long() -> None:
    """It is refused, before MLflow would cut it."""
    history = registered(1)
    with pytest.raises(LedgerError, match=r"the reason is too long: 5[0-9]+ letters of 5000"):
        history.append(decision="rejected", version="1", **{**NOBODY, "because": "中" * 5000})
    assert history.entries() == []


def test_rollback() -> None:
    """To the last champion that is there and was not rolled back itself, or to the one named."""
    history = registered(4)
    for version in ("1", "2", "3"):
        promoted(history, version)
    assert roll_back("reviews", None, "ann", "").champion == "2"
    tracking.connect().delete_model_version("reviews", "2")  # the champion itself
    with pytest.raises(LedgerError, match="version 2, is gone from the registry; graft rollback"):
        history.settle()
    assert roll_back("reviews", None, "ann", "").champion == "1"
    with pytest.raises(LedgerError, match=r"no champion before that is left; .* takes 2, 3"):
        roll_back("reviews", None, "ann", "")
    assert roll_back("reviews", "3", "bob", "it was the guest").champion == "3"
    assert list(ledger.rolled_back(history.entries())) == ["2", "1"]
    with pytest.raises(LedgerError, match="version 2 is gone from the registry"):
        roll_back("reviews", "2", "ann", "")
    for version, said in (("4", "was never champion"), ("3", "is the champion"), ("03", "never")):
        with pytest.raises(LedgerError, match=f"version {version} .*{said}"):
            roll_back("reviews", version, "ann", "")


PROMOTE = """
import os, sys
from tasks.ledger import Ledger
from tasks.errors import LedgerError, SourceUnavailable, TrackingError
history = Ledger("reviews")
for version in sys.argv[1].split(","):
    while True:
        try:
            history.append(history.standing(), decision="promoted", version=version,
                champion=version, by="graft", because="", frozen=None, evidence=None, run=None)
            break
        except LedgerError:
            continue
"""


def test_twenty_promotions_at_once(home: Path, tmp_path: Path) -> None:
    """From four processes: each is in the history, which is whole and agrees with the alias."""
    registered(20)
    parts = [",".join(map(str, range(start, start + 5))) for start in (1, 6, 11, 16)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, versions],
            env=environment(home),
            cwd=Path(__file__).parents[1],
            stderr=subprocess.PIPE,
        )
        for versions in parts
    ]
    assert [process.communicate()[1][-2000:] for process in running] == [b""] * 4
    entries = Ledger("reviews").entries()
    assert sorted(int(entry.version) for entry in entries) == list(range(1, 21))
    assert faults(entries) == []
    assert str(alias()) == entries[-1].champion


KILLED = """
import os, signal
from tasks import ledger
ledger.Ledger.settle = lambda self: os.kill(os.getpid(), signal.SIGKILL)
history = ledger.Ledger("reviews")
history.append(history.standing(), decision="promoted", version="2", champion="2", by="graft",
    because="", frozen=None, evidence=None, run=None)
"""


def test_killed_between_ledger_and_alias(home: Path) -> None:
    """What was decided stands: the alias follows as soon as anyone looks."""
    registered(2)
    command = [sys.executable, "-c", KILLED]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=environment(home), cwd=root, check=False)
    assert done.returncode == -9
    assert alias() is None
    history = Ledger("reviews")
    assert history.standing().version == "2"
    history.settle()
    assert str(alias()) == "2"


def test_killed_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment whose maker died is given its run by the next one that needs it."""
    monkeypatch.setattr(ledger, "PATIENCE", 0.2)
    history = registered(1)
    tracking.connect().create_experiment(history.name)
    assert promoted(history, "1") == Ledger("reviews").entries()[0]


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"])
def test_a_registry_that_fails_has_lost_nothing(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there is told apart from what cannot be known just now."""
    from mlflow.exceptions import MlflowException

    registered(1)
    assert registry.registered("reviews", "7") is registry.registered("nobody", "1") is None
    with pytest.raises(SourceUnavailable, match="'nobody' is not in the registry"):
        registry.alias_version("nobody", "champion")

    def fails(*given: str) -> None:
        error = MlflowException("no room")
        error.error_code = code
        raise error

    for name in ("get_registered_model", "get_model_version"):
        monkeypatch.setattr(f"mlflow.MlflowClient.{name}", fails)
    for ask in (registry.registered, registry.alias_version, registry.run_of):
        with pytest.raises(TrackingError, match="no room"):
            ask("reviews", "1")
