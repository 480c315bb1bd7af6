"""Decisions as Prefect events, which an automation can act on."""

from __future__ import annotations

from prefect.events import emit_event

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
