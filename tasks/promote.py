"""Challenger against champion: both are asked now, on the same rows, and what comes out is kept.

The rows are the challenger's frozen test rows, less those the champion learned from: a set that was
drawn anew, or from data that changed, may hold some.

evidence.json             scores of both, the gain with its interval, the verdict, every gate
flips.html, flips.parquet    the rows that change; see tasks/flips.py
predictions/<role>.parquet   id, text, label and answer, one file each
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import flips, registry, split, store, tracking
from tasks.comparison import compare
from tasks.config import Pipeline
from tasks.errors import ConfigError, DataRejected, SourceUnavailable
from tasks.evaluate import write_predictions
from tasks.gates import Measured, gates
from tasks.learning.contracts import Application, Row
from tasks.ledger import CHAMPION, Decision, Entry, Ledger
from tasks.load import resolve
from tasks.training import read_rows
from tasks.verdict import Verdict, verdict

if TYPE_CHECKING:
    from tasks.learning.serving import ServedModel

CHALLENGER = "challenger"
DECIDED: Mapping[str, Decision] = {
    "promote": "promoted",
    "equivalent": "equivalent",
    "reject": "rejected",
}
"""A verdict, and what the ledger calls what follows from it."""


@dataclass(frozen=True)
class Contest:
    """Who is compared with whom, and on what."""

    model: str
    pipeline: Pipeline
    """As the challenger's run recorded it."""
    challenger: str
    """Its version."""
    run: str
    """The MLflow run that made it."""
    champion: str | None
    """Its version; None: there is none yet."""
    rows: Sequence[Row]
    """The frozen test rows that both are asked."""
    frozen: str
    """Their digest."""
    left_out: int
    """Test rows that the champion learned from."""


def contest(model: str, ledger: Ledger) -> Contest:
    """Find challenger and champion, and the rows to ask them.

    Raises:
        SourceUnavailable: there is no challenger, or what its run recorded is gone.
        ConfigError: the challenger is the champion, or was and has been rolled back.
        DataRejected: the champion learned from every test row.
    """
    challenger = registry.alias_version(model, CHALLENGER)
    if challenger is None:
        raise SourceUnavailable(f"model '{model}' has no challenger; graft run makes one")
    champion = ledger.champion()
    if challenger == champion:
        raise ConfigError(f"model '{model}': version {champion}, the challenger, is the champion")
    for entry in ledger.entries():
        if entry.decision == "rolled_back" and entry.previous == challenger:
            raise ConfigError(
                f"model '{model}': {entry.by} rolled version {challenger}, the challenger, back at "
                f"{entry.at}; graft run makes another, graft rollback --to {challenger} restores it"
            )
    run = registry.run_of(model, challenger)
    pipeline = resolve(tracking.recorded_configuration(run)[1])
    rows = read_rows(tracking.run_file(run, "frozen/test.parquet"))
    known = learned_by(registry.run_of(model, champion)) if champion else set()
    inputs = pipeline.application.inputs
    kept = [row for row in rows if split.text_digest(split.text_key(row, inputs)) not in known]
    if not kept:
        raise DataRejected(
            f"model '{model}': the champion, version {champion}, learned from every test row of "
            f"version {challenger}; nothing is left to compare them on"
        )
    asked = sorted([str(row[field]) for field in pipeline.application.fields] for row in kept)
    frozen, left_out = store.digest(asked), len(rows) - len(kept)
    return Contest(model, pipeline, challenger, run, champion, kept, frozen, left_out)


def learned_by(run: str) -> set[str]:
    """Digests of the texts that the models of a run learned from."""
    return set(tracking.run_file(run, f"frozen/{split.LEARNED}").read_text("utf-8").split())


def asked(found: Contest, version: str) -> Measured:
    """What a registered version says now to each row, and how long it takes.

    Raises:
        SourceUnavailable: its files are gone.
        ConfigError: it answers another question than the challenger does.
    """
    import torch

    from tasks.learning.prediction import predict
    from tasks.learning.serving import ServedModel

    folder = registry.download_model(f"models:/{found.model}/{version}")
    served = ServedModel(folder)
    wanted, has = found.pipeline.application, served.application
    if (has.kind, has.labels) != (wanted.kind, wanted.labels):
        raise ConfigError(
            f"model '{found.model}': version {version} does {_described(has)}, and version "
            f"{found.challenger} {_described(wanted)}; give one of them a name of its own "
            "(promotion.model)"
        )
    torch.manual_seed(found.pipeline.seed)  # where words are drawn
    predictions = predict(served.learner, has.kind, found.rows, supervised=True)
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Measured(predictions, latencies(served, found.rows), sum(files) / 1e6)


def latencies(served: ServedModel, rows: Sequence[Row]) -> list[float]:
    """Milliseconds for each of the first rows by itself, of so many as take ten seconds."""
    from tasks.learning.prediction import predict

    taken: list[float] = []
    predict(served.learner, served.application.kind, rows[:1])  # the first is always slower
    for row in rows[:100]:
        started = time.perf_counter()
        predict(served.learner, served.application.kind, [row])
        taken.append(1000 * (time.perf_counter() - started))
        if sum(taken) > 10_000:
            break
    return taken


def _described(application: Application) -> str:
    labels = f" of {', '.join(application.labels)}" if application.labels else ""
    return f"{application.kind}{labels}"


def evidence(found: Contest, measured: Mapping[str, Measured], looks: int) -> dict[str, Any]:
    """Everything that speaks for and against a promotion.

    Args:
        found: who, and on what.
        measured: `challenger` and, where there is one, `champion`.
        looks: how often these rows have decided before.
    """
    pipeline = found.pipeline
    predictions = {role: one.predictions for role, one in measured.items()}
    report = compare(pipeline, predictions, found.rows, CHALLENGER)
    judged = Verdict("promote", "there is no champion yet")
    if found.champion:
        gain = report["gains"][CHAMPION]
        judged = verdict(gain, pipeline.promotion.minimum_gain, pipeline.margin)
    passed = gates(pipeline, found.run, report, measured[CHALLENGER], found.rows, CHAMPION)
    return {
        "model": found.model,
        "challenger": found.challenger,
        "champion": found.champion,
        "frozen": found.frozen,
        "left_out": found.left_out,
        "looks": looks,
        "verdict": asdict(judged),
        "gates": [asdict(gate) for gate in passed],
        "report": report,
    }


def decision(said: Mapping[str, Any]) -> tuple[Decision, str]:
    """What the evidence decides, and why."""
    shut = [gate for gate in said["gates"] if not gate["passed"]]
    judged = said["verdict"]
    if judged["decision"] == "promote" and shut:
        return "rejected", f"{shut[0]['name']}: {shut[0]['found']}"
    return DECIDED[judged["decision"]], judged["reason"]


def keep(
    found: Contest,
    said: Mapping[str, Any],
    measured: Mapping[str, Measured],
    folder: Path,
) -> tuple[str, str]:
    """Log the evidence to MLflow; the run that has it, and its digest."""
    path = folder / "evidence.json"
    path.write_text(json.dumps(said, indent=1), encoding="utf-8")
    (folder / "predictions").mkdir()
    for role, one in measured.items():
        write_predictions(folder / "predictions" / f"{role}.parquet", found.rows, one.predictions)
    if found.champion:
        old, new = (measured[role].predictions for role in (CHAMPION, CHALLENGER))
        changed = flips.flips(found.pipeline, old, new, found.rows)
        flips.write(changed, said["report"], folder)
    metric = found.pipeline.metric
    values = {
        f"{role}_{metric}": scores[metric]["value"]
        for role, scores in said["report"]["systems"].items()
    }
    if found.champion:
        values["gain_over_champion"] = said["report"]["gains"][CHAMPION]["value"]
    name = f"promote {found.model}/{found.challenger}"
    return tracking.log_beside(found.run, name, folder, values), store.file_digest(path)


def decide(
    found: Contest,
    ledger: Ledger,
    decided: Decision,
    by: str,
    because: str,
    evidence: str,
    run: str,
) -> Entry:
    """Write a decision to the ledger; the alias follows.

    Raises:
        LedgerError: the champion is another one by now.
    """
    return ledger.append(
        found.champion,
        decision=decided,
        version=found.challenger,
        by=by,
        because=because,
        frozen=found.frozen,
        evidence=evidence,
        run=run,
        **({"champion": found.challenger} if decided == "promoted" else {}),
    )
