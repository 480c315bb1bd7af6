"""`graft status`: what runs, what is in production, and what waits for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from humanize import naturaltime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from rich.table import Table

from flows.console import console
from flows.deploy import held
from tasks import drift, registry
from tasks.config import Pipeline
from tasks.errors import LedgerError, SourceUnavailable
from tasks.history import Entry
from tasks.ledger import CHAMPION, Ledger
from tasks.progress import logger
from tasks.promote import CHALLENGER


def status(pipelines: Mapping[str, Pipeline]) -> dict[str, Any]:
    """Everything that is shown, as JSON; times are ISO 8601 in UTC.

    Args:
        pipelines: by name.
    """
    with get_client(sync_client=True) as client:
        deployed = held(client)
        told = [
            {
                "name": name,
                **runs(client, deployed.get(f"transfer/{name}")),
                **model(pipeline.promotion.model),
            }
            for name, pipeline in pipelines.items()
        ]
        pools = sorted({str(one.work_pool_name) for one in deployed.values()})
        return {
            "pipelines": told,
            "waiting": [waiting(run) for run in asking(client)],
            "workers": [one for pool in pools for one in workers(client, pool)],
        }


def runs(client: SyncPrefectClient, deployment: DeploymentResponse | None) -> dict[str, Any]:
    """A pipeline's last run and its next one."""
    if deployment is None:
        return {"deployed": False, "last_run": None, "next_run": None}
    ours = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

    def first(states: Iterable[StateType], sort: FlowRunSort, *, but: bool) -> FlowRun | None:
        kinds = {"not_any_" if but else "any_": list(states)}
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(**kinds)))
        found = client.read_flow_runs(
            deployment_filter=ours, flow_run_filter=wanted, sort=sort, limit=1
        )
        return found[0] if found else None

    scheduled = (StateType.SCHEDULED,)
    last = first(scheduled, FlowRunSort.EXPECTED_START_TIME_DESC, but=True)
    coming = first(scheduled, FlowRunSort.EXPECTED_START_TIME_ASC, but=False)
    return {
        "deployed": True,
        "last_run": last
        and {
            "state": last.state_name,
            "at": iso(last.start_time or last.expected_start_time),
            "id": str(last.id),
        },
        "next_run": coming and iso(coming.expected_start_time),
    }


def model(name: str) -> dict[str, Any]:
    """What is in production of a model, since when, who wants to take its place, and whether its
    text has drifted."""
    champion = challenger = None
    entries: list[Entry] = []
    try:
        champion, challenger = (registry.alias_version(name, a) for a in (CHAMPION, CHALLENGER))
        entries = Ledger(name).entries()
    except SourceUnavailable:
        pass  # it has no version yet
    except LedgerError as error:
        logger.warning("%s", error)
    since = [entry.at for entry in entries if entry.champion == champion != entry.previous]
    return {
        "model": name,
        "champion": champion,
        "champion_since": since[-1] if since else None,
        "challenger": challenger if challenger != champion else None,
        "drift": drift.last(name, champion) if champion else None,
    }


def asking(client: SyncPrefectClient) -> list[FlowRun]:
    """Promotions that wait for a person."""
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["promote", "approval"])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
        ),
    )


def waiting(run: FlowRun) -> dict[str, Any]:
    """Which promotion, since when, and how it is answered."""
    since = run.state.timestamp if run.state else run.start_time
    return {"promotion": run.name, "since": iso(since), "answer": f"graft approve {run.id}"}


def workers(client: SyncPrefectClient, pool: str) -> list[dict[str, Any]]:
    """Who works for a pool, or has."""
    return [
        {
            "pool": pool,
            "name": one.name,
            "alive": str(getattr(one.status, "value", one.status)) == "ONLINE",
            "seen": iso(one.last_heartbeat_time),
        }
        for one in client.read_workers_for_work_pool(pool)
    ]


def iso(moment: datetime | None) -> str | None:
    """2026-11-26T14:45:03Z"""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def print_status(told: Mapping[str, Any], now: datetime) -> None:
    """All of it on one screen."""
    drawn = Table(title="Pipelines")
    for heading in ("pipeline", "last run", "next run", "champion", "challenger", "drift"):
        drawn.add_column(heading)
    for one in told["pipelines"]:
        last = one["last_run"]
        ran = f"{last['state'].lower()} {age(last['at'], now)}" if last else "none"
        since = f", {age(one['champion_since'], now)}" if one["champion_since"] else ""
        drawn.add_row(
            one["name"],
            ran if one["deployed"] else "not deployed",
            age(one["next_run"], now) if one["next_run"] else "when asked",
            f"version {one['champion']}{since}" if one["champion"] else "none",
            f"version {one['challenger']}" if one["challenger"] else "none",
            looked(one["drift"], now),
        )
    console.print(drawn)
    for one in told["waiting"]:
        line = f"Waits since {age(one['since'], now)}: {one['promotion']}; {one['answer']}"
        console.print(line, soft_wrap=True, markup=False)
    for one in told["workers"]:
        alive = "works" if one["alive"] else "gone"
        seen = age(one["seen"], now) if one["seen"] else "never"
        console.print(f"Worker {one['name']} of pool {one['pool']}: {alive}, heard {seen}")
    if not any(one["alive"] for one in told["workers"]):
        console.print("No worker is alive: nothing starts; see graft worker and graft up")


def looked(last: Mapping[str, Any] | None, now: datetime) -> str:
    """What the monitor last found."""
    if last is None:
        return "not looked"
    return f"{'DRIFT' if last['drifted'] else 'none'}, {age(last['at'], now)}"


def age(moment: str, now: datetime) -> str:
    """3 hours ago, or 2 days from now."""
    return naturaltime(datetime.fromisoformat(moment), when=now)
