"""The promotion flow: challenger and champion asked side by side, judged, and the ledger written.

Read `promote` below from top to bottom: each line is a node of the DAG, or a line of the ledger.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow
from prefect.runtime import deployment

from flows import approval, evidence
from flows.announce import conclude
from tasks import promote as promoting
from tasks import tracking
from tasks.ledger import CHAMPION, Ledger
from tasks.promote import CHALLENGER
from tasks.stage import plan


@flow(name="promote", flow_run_name="{model}", persist_result=False)
def promote(model: str) -> dict[str, Any]:
    """Let the challenger of a registered model take its champion's place, if evidence says so.

    Args:
        model: its name in the registry.

    Returns:
        evidence (see `tasks/promote.py`) and entry (what the ledger has of it; null while a
        deployed promotion waits for a person).
    """
    ledger = Ledger(model)
    ledger.settle()
    found = plan("find", model, promoting.contest, model, ledger)
    wants_person = found.pipeline.promotion.approval == "required"
    if wants_person:
        approval.check_server()
    measured = {}
    if found.champion:
        measured[CHAMPION] = plan("ask", CHAMPION, promoting.asked, found, found.champion)
    measured[CHALLENGER] = plan("ask", CHALLENGER, promoting.asked, found, found.challenger)
    looks = sum(entry.frozen == found.frozen for entry in ledger.entries())
    said = plan("judge", model, promoting.evidence, found, measured, looks)
    with TemporaryDirectory() as folder:
        case = promoting.keep(found, said, measured, Path(folder))
    shown = evidence.markdown(said, case.run, tracking.address(case.run, evidence.details(said)))
    decided, reason = promoting.decision(said)
    by, hours = "graft", found.pipeline.promotion.approval_hours
    if decided == "promoted" and wants_person:
        if deployment.id:  # a worker has other things to do than to wait
            approval.begin(case, shown, reason, hours)
            return {"evidence": said, "entry": None}
        decided, by, reason = approval.asked(shown, reason, hours)
    entry = promoting.decide(case, decided, by, reason)
    conclude(model, entry, shown)
    return {"evidence": said, "entry": vars(entry)}
