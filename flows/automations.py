"""What the server does by itself when a worker falls silent, a run crashes, or text drifts."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture

from tasks.config import Pipeline

SILENCE = 75
"""Seconds without a sign of life (one comes each `worker.HEARTBEAT`) after which a run is dead: two
may be late, or lost."""
BEGINS = 900
"""Seconds that a worker has to begin what it took, before which no sign of life comes."""
ENDS = (
    *("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused", "AwaitingRetry"),
    *("Scheduled", "Resuming"),
)
"""States after which no sign of life is expected."""
TAG = "graft"
"""What every deployment of Graft's is known by."""
RECOVERED = "graft-recovered"
"""What those are known by whose runs are started again when they crash: all but `recover`."""
WATCHED = "graft-watched"
"""What those are known by whose runs are dead when they are silent. A run that suspends at once is
none of them: its first sign of life may be heard after it has gone to sleep."""
PREFIX = "graft: "
"""How the names of all automations begin."""
ANY_RUN: dict[str, str | list[str]] = {"prefect.resource.id": ["prefect.flow-run.*"]}


def event(state: str) -> str:
    """What a run that comes to a state is heard by."""
    return f"prefect.flow-run.{state}"


def tagged(tag: str) -> dict[str, str | list[str]]:
    """A run's related resource."""
    return {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}


def wanted(
    pipelines: Mapping[str, Pipeline], deployments: Mapping[str, DeploymentResponse]
) -> list[AutomationCore]:
    """The automations that Graft's deployments need; none of one that is not there yet."""
    found = []
    if recover := deployments.get("recover/runs"):
        found += watching(recover.id)
    for name, pipeline in pipelines.items():
        deployed = deployments.get(f"transfer/{name}")
        if deployed and pipeline.monitoring and pipeline.monitoring.retrain:
            found.append(retraining(name, pipeline, deployed.id))
    return found


def retraining(name: str, pipeline: Pipeline, deployment: UUID) -> AutomationCore:
    """Text that drifted starts the pipeline again, which reads it without labels."""
    parameters: dict[str, Any] = {"name": name, "pipeline": pipeline.model_dump(mode="json")}
    parameters["pipeline"]["target"][pipeline.target_name]["more_text"] = "{{ event.payload.kept }}"
    return AutomationCore(
        name=f"{PREFIX}{name} is trained again when {pipeline.promotion.model} drifts",
        description="The fresh rows are text of the target's, without labels.",
        trigger=EventTrigger(
            expect={"graft.drifted"},
            match={"prefect.resource.id": f"graft.model.{pipeline.promotion.model}"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[RunDeployment(source="selected", deployment_id=deployment, parameters=parameters)],
    )


def watching(recover: UUID) -> list[AutomationCore]:
    """A run whose worker fell silent has crashed, and one that crashed is started again."""
    beat = "prefect.flow-run.heartbeat"
    return [
        silent(
            f"{PREFIX}a worker fell silent",
            description=f"A run without a heartbeat for {SILENCE} s has crashed.",
            after={beat, event("Running")},
            seconds=SILENCE,
            message=f"Its worker was silent for {SILENCE} s.",
        ),
        silent(
            f"{PREFIX}a worker did not begin",
            description=f"A run that a worker took, and that does not run {BEGINS} s later, has "
            "crashed.",
            after={event("Pending")},  # the second time that it is taken counts anew
            seconds=BEGINS,
            message=f"Its worker did not begin it within {BEGINS} s.",
        ),
        AutomationCore(
            name=f"{PREFIX}a run crashed",
            description="It is started again, twice at most.",
            trigger=EventTrigger(
                expect={event("Crashed")},
                match=ANY_RUN,
                match_related=tagged(RECOVERED),
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                RunDeployment(
                    source="selected",
                    deployment_id=recover,
                    parameters={"crashed": "{{ flow_run.id | string }}"},  # JSON has no UUID
                )
            ],
        ),
    ]


def silent(
    name: str, *, description: str, after: set[str], seconds: int, message: str
) -> AutomationCore:
    """A watched run has crashed if it shows nothing for so many seconds after one of the events.

    What shows something is one of them again, that it runs, or that it ended.
    """
    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            after=after,
            expect={*after, event("Running"), *(event(state) for state in ENDS)},
            match=ANY_RUN,
            match_related=tagged(WATCHED),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def unwanted(
    client: SyncPrefectClient, wanted: Iterable[AutomationCore], ours: Container[UUID]
) -> list[Automation]:
    """Automations of Graft's that start one of these deployments, and are not wanted any more."""
    names = {one.name for one in wanted}
    return [
        one
        for one in client.read_automations()
        if one.name.startswith(PREFIX) and one.name not in names
        for action in one.actions
        if isinstance(action, RunDeployment) and action.deployment_id in ours
    ]


def ensure(
    client: SyncPrefectClient, wanted: AutomationCore, *, apply: bool
) -> Iterator[tuple[str, Literal["new", "changed"]]]:
    """Make an automation as it is wanted; gives its name and what that does, if anything.

    Whether it is enabled is left to the UI.
    """
    found = client.read_automations_by_name(wanted.name)
    name = f"automation {wanted.name}"
    if not found:
        if apply:
            client.create_automation(wanted)
        yield name, "new"
        return
    kept = {"enabled": found[0].enabled, "owner_resource": found[0].owner_resource}
    had = AutomationCore.model_validate(found[0].model_dump(exclude={"id"}))
    made = wanted.model_copy(update=kept)
    if had != made:
        if apply:
            client.update_automation(found[0].id, made)
        yield name, "changed"
