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
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tasks import flips, registry, split, store, tracking
from tasks.comparison import compare
from tasks.config import Pipeline
from tasks.errors import ConfigError, DataRejected, SourceUnavailable
from tasks.evaluate import write_predictions
from tasks.gates import Measured, gates
from tasks.history import Decision, Entry, Standing, rolled_back
from tasks.learning.contracts import Application, Row
from tasks.ledger import CHAMPION, Ledger
from tasks.load import resolve
from tasks.training import LOADING_FAILS, read_rows
from tasks.verdict import Verdict, verdict

if TYPE_CHECKING:
    from tasks.learning.serving import ServedModel

CHALLENGER = "challenger"
REASON = 500
"""Letters that the ledger keeps of a reason; the evidence has all of it."""
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
    standing: Standing
    """What is in production, a version or none yet."""
    rows: Sequence[Row]
    """The frozen test rows that both are asked."""
    frozen: str
    """Digest of the frozen test rows, with those that are left out."""
    left_out: int
    """Test rows that the champion learned from."""

    @property
    def champion(self) -> str | None:
        """The champion's version."""
        return self.standing.version


@dataclass(frozen=True)
class Case:
    """What is to be decided; as JSON it waits for a person."""

    model: str
    """The registered model's name."""
    version: str
    """The challenger's version."""
    standing: Standing
    """What it was compared with."""
    frozen: str
    """Digest of the rows both were asked."""
    evidence: str
    """Digest of evidence.json."""
    run: str
    """The MLflow run that has it."""


def contest(model: str, ledger: Ledger) -> Contest:
    """Find challenger and champion, and the rows to ask them.

    Raises:
        SourceUnavailable: there is no challenger, or what the runs of both recorded is gone.
        ConfigError: the challenger is the champion, or was and has been rolled back.
        DataRejected: the champion learned from every test row.
    """
    challenger = registry.alias_version(model, CHALLENGER)
    if challenger is None:
        raise SourceUnavailable(f"model '{model}' has no challenger; graft run makes one")
    standing = ledger.standing()
    champion = standing.version
    if challenger == champion:
        raise ConfigError(f"model '{model}': version {champion}, the challenger, is the champion")
    if entry := rolled_back(ledger.entries()).get(challenger):
        raise ConfigError(
            f"model '{model}': {entry.by} rolled version {challenger}, the challenger, back at "
            f"{entry.at}; graft run makes another, graft rollback --to {challenger} restores it"
        )
    run = registry.run_of(model, challenger)
    pipeline = resolve(tracking.recorded_configuration(run)[1])
    rows = read_rows(recorded(model, challenger, "test.parquet"))
    known = set(
        recorded(model, champion, split.LEARNED).read_text("utf-8").split() if champion else []
    )
    inputs = pipeline.application.inputs
    kept = [row for row in rows if split.text_digest(split.text_key(row, inputs)) not in known]
    if not kept:
        raise DataRejected(
            f"model '{model}': the champion, version {champion}, learned from every test row of "
            f"version {challenger}; nothing is left to compare them on"
        )
    told = sorted([str(row[field]) for field in pipeline.application.fields] for row in rows)
    left_out = len(rows) - len(kept)
    return Contest(model, pipeline, challenger, run, standing, kept, store.digest(told), left_out)


def recorded(model: str, version: str, name: str) -> Path:
    """What the run that made a version recorded for promotions.

    Raises:
        SourceUnavailable: it has not, or no more.
    """
    run = registry.run_of(model, version)
    try:
        return tracking.run_file(run, f"frozen/{name}")
    except SourceUnavailable as error:
        raise SourceUnavailable(
            f"model '{model}' version {version} cannot be compared: MLflow run {run} has no "
            f"frozen/{name}; graft run --from-run {run} makes the version again"
        ) from error


def asked(found: Contest, version: str) -> Measured:
    """What a registered version says now to each row, and how long it takes.

    Raises:
        SourceUnavailable: its files are gone.
        ConfigError: it answers another question than the challenger does.
    """
    import torch

    from tasks.learning.prediction import predict
    from tasks.learning.serving import ServedModel

    with TemporaryDirectory() as copied:
        folder = registry.download_model(f"models:/{found.model}/{version}", Path(copied))
        files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        try:
            served = ServedModel(folder)
        except (*LOADING_FAILS, ValidationError) as error:
            first = " ".join(str(error).split())[:200]
            raise SourceUnavailable(
                f"model '{found.model}': version {version} cannot be loaded ({first})"
            ) from error
    wanted, has = found.pipeline.application, served.application
    if (has.kind, has.labels) != (wanted.kind, wanted.labels):
        raise ConfigError(
            f"model '{found.model}': version {version} does {_described(has)}, and version "
            f"{found.challenger} {_described(wanted)}; give one of them a name of its own "
            "(promotion.model)"
        )
    torch.manual_seed(found.pipeline.seed)  # where words are drawn
    predictions = predict(served.learner, has.kind, found.rows, supervised=True)
    times = latencies(served, found.rows) if version == found.challenger else []
    return Measured(predictions, times, sum(files) / 1e6)


def latencies(served: ServedModel, rows: Sequence[Row]) -> list[float]:
    """Milliseconds for each of 100 rows by itself, of fewer if they take ten seconds."""
    from tasks.learning.prediction import predict

    taken: list[float] = []
    predict(served.learner, served.application.kind, rows[:1])  # the first is always slower
    for row in rows[:: max(1, len(rows) // 100)]:
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
        promotion = pipeline.promotion
        judged = verdict(gain, promotion.minimum_gain, pipeline.margin, report["units"])
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
        return "rejected", f"{shut[0]['name']}: {shut[0]['found']}"[:REASON]
    return DECIDED[judged["decision"]], judged["reason"]


def keep(
    found: Contest,
    said: Mapping[str, Any],
    measured: Mapping[str, Measured],
    folder: Path,
) -> Case:
    """Log the evidence to MLflow."""
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
    run = tracking.log_beside(found.run, name, folder, values)
    digest = store.file_digest(path)
    return Case(found.model, found.challenger, found.standing, found.frozen, digest, run)


def decide(case: Case, decided: Decision, by: str, because: str) -> Entry:
    """Write a decision to the ledger; the alias follows. What is decided stays so: a flow that is
    started again finds its entry.

    Raises:
        LedgerError: the champion is another one by now.
    """
    ledger = Ledger(case.model)
    for entry in ledger.entries():
        if entry.run == case.run:
            ledger.settle()
            return entry
    return ledger.append(
        case.standing,
        decision=decided,
        version=case.version,
        by=by,
        because=because,
        frozen=case.frozen,
        evidence=case.evidence,
        run=case.run,
        **({"champion": case.version} if decided == "promoted" else {}),
    )
