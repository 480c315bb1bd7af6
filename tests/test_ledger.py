"""The history of a model: what it promises when many write, and when someone dies or cheats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import ledger, tracking
from tasks.errors import LedgerError
from tasks.ledger import Entry, Ledger
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


def promoted(history: Ledger, version: str, expected: str | None) -> Entry:
    """A promotion."""
    return history.append(
        expected, decision="promoted", version=version, champion=version, **NOBODY
    )


def test_entries_follow_each_other() -> None:
    """Each carries the hash of the one before; the alias is where the last one says."""
    history = registered(3)
    assert history.champion() is None
    first = promoted(history, "1", None)
    second = history.append(decision="rejected", version="2", **NOBODY)
    third = promoted(history, "3", "1")
    assert Ledger("reviews").entries() == [first, second, third]
    assert [entry.number for entry in (first, second, third)] == [1, 2, 3]
    assert (second.before, third.before) == (first.hash, second.hash)
    assert (second.champion, third.previous, third.champion) == ("1", "1", "3")
    assert ledger.faults(history.entries()) == []
    assert str(alias()) == history.champion() == "3"


def test_one_that_came_too_late() -> None:
    """A promotion over a champion that is none any more changes nothing; a rejection counts."""
    history = registered(3)
    promoted(history, "1", None)
    promoted(history, "2", "1")
    with pytest.raises(LedgerError, match="champion is version 2 by now, not version 1"):
        promoted(Ledger("reviews"), "3", "1")
    assert len(history.entries()) == 2
    assert history.append(decision="rejected", version="3", **NOBODY).champion == "2"


def test_a_champion_from_before_the_ledger() -> None:
    """An alias that was set by hand is what the first entry follows on."""
    history = registered(2)
    tracking.connect().set_registered_model_alias("reviews", "champion", "1")
    assert history.champion() == "1"
    assert promoted(history, "2", "1").previous == "1"


def test_what_was_changed_or_is_missing() -> None:
    """A changed entry no longer has the hash that the next one carries."""
    history = registered(3)
    for version, before in (("1", None), ("2", "1"), ("3", "2")):
        promoted(history, version, before)
    first, second, third = history.entries()
    changed = Entry(**{**vars(second), "because": "so that it looks better"})
    assert ledger.faults([first, changed, third]) == [
        "entry 2 was changed after entry 3 was written"
    ]
    assert ledger.faults([first, third]) == ["entry 2 is missing"]


PROMOTE = """
import os, sys
from tasks.ledger import Ledger
from tasks.errors import LedgerError
history = Ledger("reviews")
for version in sys.argv[1].split(","):
    while True:
        try:
            history.append(history.champion(), decision="promoted", version=version,
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
    assert ledger.faults(entries) == []
    assert str(alias()) == entries[-1].champion


KILLED = """
import os, signal
from tasks import ledger
ledger.Ledger.settle = lambda self: os.kill(os.getpid(), signal.SIGKILL)
ledger.Ledger("reviews").append(None, decision="promoted", version="2", champion="2", by="graft",
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
    assert history.champion() == "2"
    history.settle()
    assert str(alias()) == "2"


def test_killed_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment whose maker died is given its run by the next one that needs it."""
    monkeypatch.setattr(ledger, "PATIENCE", 0.2)
    tracking.connect().create_experiment("ledger-reviews")
    history = registered(1)
    assert promoted(history, "1", None) == Ledger("reviews").entries()[0]
