"""Decisions and drift as Prefect events, which an automation can act on, and as artifacts.

The events' resource is `graft.model.NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows.evidence import outcome, plain
from tasks.history import Entry


def announce(model: str, entry: Entry) -> None:
    """Emit `graft.promoted`, `graft.equivalent`, `graft.rejected` or `graft.rolled_back`.

    The payload is the ledger's entry and its hash.
    """
    _emit(f"graft.{entry.decision}", model, {**vars(entry), "hash": entry.hash})


def conclude(model: str, entry: Entry, evidence: str) -> None:
    """The end of a promotion: its event, and its evidence beside what came of it."""
    announce(model, entry)
    create_markdown_artifact(
        key=f"{model.lower().replace('_', '-')}-promotion",
        markdown=f"{evidence}- {plain(outcome(entry))}\n",
    )


def announce_drift(report: Mapping[str, Any]) -> None:
    """Emit `graft.drifted`.

    The payload is the monitor's report: model, version, measures with thresholds, rows, the MLflow
    run that has the pictures, and, as `kept`, where the fresh rows lie.
    """
    _emit("graft.drifted", report["model"], dict(report))


def _emit(event: str, model: str, payload: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": f"graft.model.{model}", "prefect.resource.name": model}
    emit_event(event=event, resource=resource, payload=payload)
