"""Decisions and drift as Prefect events, which an automation can act on.

The resource is `graft.model.NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from tasks.history import Entry


def announce(model: str, entry: Entry) -> None:
    """Emit `graft.promoted`, `graft.equivalent`, `graft.rejected` or `graft.rolled_back`.

    The payload is the ledger's entry and its hash.
    """
    _emit(f"graft.{entry.decision}", model, {**vars(entry), "hash": entry.hash})


def announce_drift(report: Mapping[str, Any]) -> None:
    """Emit `graft.drifted`.

    The payload is the monitor's report: model, version, measures with thresholds, rows, the MLflow
    run that has the pictures, and, as `kept`, where the fresh rows lie.
    """
    _emit("graft.drifted", report["model"], dict(report))


def _emit(event: str, model: str, payload: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": f"graft.model.{model}", "prefect.resource.name": model}
    emit_event(event=event, resource=resource, payload=payload)
