"""Decisions as Prefect events, which an automation can act on, and as artifacts."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows.evidence import outcome, plain
from tasks.history import Entry


def announce(model: str, entry: Entry) -> None:
    """Emit `graft.promoted`, `graft.equivalent`, `graft.rejected` or `graft.rolled_back`.

    The resource is `graft.model.NAME`; the payload is the ledger's entry and its hash.
    """
    emit_event(
        event=f"graft.{entry.decision}",
        resource={"prefect.resource.id": f"graft.model.{model}", "prefect.resource.name": model},
        payload={**vars(entry), "hash": entry.hash},
    )


def conclude(model: str, entry: Entry, evidence: str) -> None:
    """The end of a promotion: its event, and its evidence beside what came of it."""
    announce(model, entry)
    create_markdown_artifact(
        key=f"{model.lower().replace('_', '-')}-promotion",
        markdown=f"{evidence}- {plain(outcome(entry))}\n",
    )
