"""The promotion flow: challenger and champion asked side by side, judged, and the ledger written.

Read `promote` below from top to bottom: each line is a node of the DAG, or a line of the ledger.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows import approval, evidence
from flows.announce import announce
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
        evidence (see `tasks/promote.py`) and entry (what the ledger has of it).
    """
    ledger = Ledger(model)
    ledger.settle()
    found = plan("find", model, promoting.contest, model, ledger)
    if found.pipeline.promotion.approval == "required":
        approval.check_server()
    measured = {}
    if found.champion:
        measured[CHAMPION] = plan("ask", CHAMPION, promoting.asked, found, found.champion)
    measured[CHALLENGER] = plan("ask", CHALLENGER, promoting.asked, found, found.challenger)
    looks = sum(entry.frozen == found.frozen for entry in ledger.entries())
    said = plan("judge", model, promoting.evidence, found, measured, looks)
    with TemporaryDirectory() as folder:
        run, digest = promoting.keep(found, said, measured, Path(folder))
    shown = evidence.markdown(said, run, tracking.address(run, evidence.details(said)))
    decided, reason = promoting.decision(said)
    by = "graft"
    if decided == "promoted" and found.pipeline.promotion.approval == "required":
        hours = found.pipeline.promotion.approval_hours
        decided, by, reason = approval.asked(shown, reason, hours)
    entry = promoting.decide(found, ledger, decided, by, reason, digest, run)
    announce(model, entry)
    create_markdown_artifact(
        key=f"{model.lower().replace('_', '-')}-promotion",
        markdown=f"{shown}- {evidence.plain(evidence.outcome(entry))}\n",
    )
    return {"evidence": said, "entry": vars(entry)}
