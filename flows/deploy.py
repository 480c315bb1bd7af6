"""pipelines.yaml as Prefect deployments: what is wanted, what the server has, what changes.

transfer/NAME     the pipeline's flow on work pool `run_on.flow`, with its schedule
learn/NAME        what learns, on `run_on.transfer`, where that is another one
promote/MODEL     the promotion of a registered model
monitor/MODEL     whether fresh text is still what its champion was made for, with its schedule
approval/MODEL    a person's answer to it, and deadline/MODEL where nobody gives one
recover/runs      what starts a pipeline again whose worker died

Deploying twice changes nothing. A schedule that was switched off in the UI stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.schedules import Cron, Interval
from prefect.schedules import Schedule as PrefectSchedule
from prefect.workers.process import ProcessWorker

from flows import automations
from flows.approval import approval, deadline
from flows.console import console
from flows.learn import learning
from flows.monitor import monitor
from flows.promote import promote
from flows.recover import recover
from flows.transfer import transfer
from tasks.config import Pipeline, Schedule
from tasks.errors import ConfigError

ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
)
COMMAND = "python3 -m flows.engine"
"""What a worker starts for a run; `graft worker` sees to it that this Python is the first found."""
EPOCH = datetime(2020, 1, 1)
"""What intervals are counted from, so that they are the same whenever they are deployed."""
COMPARED = (
    "description",
    "tags",
    "work_pool_name",
    "entrypoint",
    "parameters",
    "job_variables",
    "parameter_openapi_schema",
    "schedules",
    "concurrency_limit",
    "collision_strategy",
)
"""What of a deployment is from pipelines.yaml or from Graft's code."""


@dataclass(frozen=True)
class Change:
    """What deploying does, or would do, to one deployment."""

    name: str
    kind: Literal["new", "changed", "unchanged", "gone", "removed"]
    fields: tuple[str, ...] = ()
    """What differs, where it is changed."""


def wanted(pipelines: Mapping[str, Pipeline], folder: Path) -> dict[str, RunnerDeployment]:
    """The deployments of pipelines, by flow and name: transfer/reviews."""
    found = [made for name, pipeline in pipelines.items() for made in of_pipeline(name, pipeline)]
    first = next(iter(pipelines.values()))
    found.append(deployment(recover, "runs", first.run_on.flow, {}, RECOVERS))
    named: dict[str, RunnerDeployment] = {}
    for made in found:
        made.job_variables["working_dir"] = str(folder)
        name = f"{made.flow_name}/{made.name}"
        if name in named and described(named[name]) != described(made):
            raise ConfigError(
                f"two pipelines have the promotion.model '{made.name}': give both the same "
                "run_on.flow, and `monitoring` to one alone"
            )
        named[name] = made
    return named


RECOVERS = "Starts a pipeline's flow again when its worker died; an automation asks it to."


def of_pipeline(name: str, pipeline: Pipeline) -> Iterator[RunnerDeployment]:
    """What one pipeline needs."""
    run_on, model = pipeline.run_on, pipeline.promotion.model
    parameters = {"name": name, "pipeline": pipeline.model_dump(mode="json")}
    tags = (automations.WATCHED, pipeline.application.kind, pipeline.paradigm.kind)
    told = f"{pipeline.description}\n\n{', '.join(pipeline.sources)} → {pipeline.target_name}"
    yield deployment(
        transfer, name, run_on.flow, parameters, told, tags, pipeline.schedule, ONE_AT_A_TIME
    )
    if run_on.transfer != run_on.flow:
        told = f"What pipeline {name} learns; its flow starts it."
        yield deployment(learning, name, run_on.transfer, {}, told, tags)
    told = f"Compare the challenger of {model} with its champion, and promote the better one."
    yield deployment(promote, model, run_on.flow, {"model": model}, told, tags[:1])
    looks = pipeline.monitoring
    watched = looks.model_dump(include={"text", "false_alarms"}) if looks else {}
    told = f"Whether fresh text is still what the champion of {model} was made for."
    yield deployment(
        monitor,
        model,
        run_on.flow,
        {"model": model, **watched},
        told,
        tags[:1],
        schedule=looks.schedule if looks else None,
        limit=ONE_AT_A_TIME,
    )
    told = f"What a person says to a promotion of {model}; the promotion starts it."
    yield deployment(approval, model, run_on.flow, {}, told)
    told = f"The answer to a promotion of {model} that nobody answered."
    yield deployment(deadline, model, run_on.flow, {}, told)


def deployment(
    flow: Flow[..., Any],
    name: str,
    pool: str,
    parameters: Mapping[str, Any],
    description: str,
    tags: Iterable[str] = (),
    schedule: Schedule | None = None,
    limit: ConcurrencyLimitConfig | None = None,
) -> RunnerDeployment:
    """A flow of Graft's, wherever that is installed, on a work pool."""
    ours = {automations.TAG} if flow is recover else {automations.TAG, automations.RECOVERED}
    return RunnerDeployment.from_flow(
        flow,
        name=name,
        work_pool_name=pool,
        parameters=dict(parameters),
        description=description,
        tags=sorted({*ours, *tags}),
        schedules=[timed(schedule)] if schedule else [],
        concurrency_limit=limit,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def timed(schedule: Schedule) -> PrefectSchedule:
    """A schedule as Prefect takes it."""
    if schedule.cron is not None:
        return Cron(schedule.cron, timezone=schedule.timezone)
    assert schedule.every_hours is not None
    anchor = EPOCH.replace(tzinfo=ZoneInfo(schedule.timezone))
    return Interval(
        timedelta(hours=schedule.every_hours), anchor_date=anchor, timezone=schedule.timezone
    )


def changes(
    pipelines: Mapping[str, Pipeline], folder: Path, *, apply: bool, prune: bool = False
) -> list[Change]:
    """What differs from what the server has; with `apply` it no longer does.

    Args:
        pipelines: by name.
        folder: where relative paths in them begin, on this machine and on the workers'.
        apply: make pools, deployments and automations as they are wanted.
        prune: remove, or say that it would, what no pipeline wants any more.
    """
    found = wanted(pipelines, folder)
    with get_client(sync_client=True) as client:
        had = held(client)
        ours = {name: one for name, one in had.items() if of_folder(one, folder)}
        if apply:
            for pool in sorted({str(made.work_pool_name) for made in found.values()}):
                create_pool(client, pool)
        told = [change(name, made, had.get(name)) for name, made in found.items()]
        told += [Change(name, "gone") for name in ours if name not in found]
        for one in told if apply else ():
            if one.kind in ("new", "changed"):
                keep_paused(found[one.name], had.get(one.name))
                found[one.name].apply()
            elif one.kind == "gone" and prune:
                client.delete_deployment(had[one.name].id)
        there = held(client)
        needed = automations.wanted(pipelines, there)
        for automation in needed:
            made = automations.ensure(client, automation, apply=apply)
            told += [Change(*one) for one in made]
        for old in automations.unwanted(client, needed, {one.id for one in ours.values()}):
            if apply:
                client.delete_automation(old.id)
            told.append(Change(f"automation {old.name}", "removed"))
    return told


def of_folder(deployment: DeploymentResponse, folder: Path) -> bool:
    """Whether it was deployed from there: others on the server are other projects'."""
    return bool(deployment.job_variables.get("working_dir") == str(folder))


def keep_paused(made: RunnerDeployment, had: DeploymentResponse | None) -> None:
    """Schedules that were switched off in the UI stay so."""
    if had and had.schedules and not any(one.active for one in had.schedules):
        for schedule in made.schedules or []:
            schedule.active = False


def create_pool(client: SyncPrefectClient, name: str) -> None:
    """A pool of processes, unless there is a pool of this name, of whatever kind. If it is one of
    processes and no other command is set, its runs begin with flows/engine.py."""
    pool = WorkPoolCreate(name=name, type="process", description="Graft's; see graft worker")
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
    had = client.read_work_pool(name)
    if had.type != "process":
        return
    template = had.base_job_template or ProcessWorker.get_default_base_job_template()
    variables = template.setdefault("variables", {}).setdefault("properties", {})
    command = variables.setdefault("command", {"type": "string"})
    if command.get("default") is None:
        command["default"] = COMMAND
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def held(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """Graft's deployments on the server, by flow and name."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[automations.TAG]))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=ours, limit=200, offset=len(found)):
        found += page
    flows = {one.flow_id: client.read_flow(one.flow_id).name for one in found}
    return {f"{flows[one.flow_id]}/{one.name}": one for one in found}


def change(name: str, made: RunnerDeployment, had: DeploymentResponse | None) -> Change:
    """Whether, and in what, a deployment differs from the server's."""
    if had is None:
        return Change(name, "new")
    one, other = described(made), described(had)
    fields = tuple(field for field in COMPARED if one[field] != other[field])
    return Change(name, "changed" if fields else "unchanged", fields)


def described(made: RunnerDeployment | DeploymentResponse) -> dict[str, Any]:
    """What is compared of a deployment, whichever side it is from."""
    options = made.concurrency_options
    schema: dict[str, Any] | None
    if isinstance(made, RunnerDeployment):
        schema = made._parameter_openapi_schema.model_dump(exclude_unset=True)
        limit = made.concurrency_limit
    else:
        schema = made.parameter_openapi_schema
        limit = made.global_concurrency_limit.limit if made.global_concurrency_limit else None
    told = {name: getattr(made, name) for name in COMPARED[:6]} | {
        "parameter_openapi_schema": schema,
        "schedules": [
            one.schedule.model_dump(mode="json")
            for one in made.schedules or []
            if one.schedule is not None
        ],
        "concurrency_limit": limit,
        "collision_strategy": str(options.collision_strategy) if options else None,
    }
    return {**told, "tags": sorted(told["tags"])}


def print_changes(told: Iterable[Change], *, diff: bool, prune: bool) -> None:
    """A line a change, and how many deployments stay as they are."""
    gone = "removed" if prune else "not in the file any more; --prune removes it"
    words = {"new": "made", "changed": "changed", "gone": gone, "removed": "removed"}
    would = "would be " if diff else ""
    same = 0
    for one in told:
        if one.kind == "unchanged":
            same += 1
            continue
        fields = f" ({', '.join(one.fields)})" if one.fields else ""
        prefix = would if one.kind != "gone" or prune else ""
        console.print(f"{one.name}: {prefix}{words[one.kind]}{fields}", soft_wrap=True)
    console.print(f"{same} unchanged", soft_wrap=True)
