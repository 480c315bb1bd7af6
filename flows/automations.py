"""What the server does by itself when a worker falls silent, a run crashes, or text drifts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from tasks.config import Pipeline

HEARTBEAT = 30
"""Seconds between two signs of life; Prefect takes no less."""
SILENCE = 75
"""Seconds without one after which a run is dead: two may be late, or lost."""
ENDS = (
    *("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused", "AwaitingRetry"),
    *("Scheduled", "Resuming"),
)
"""States after which no sign of life is expected."""
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.graft"}


def wanted(
    pipelines: Mapping[str, Pipeline], deployments: Mapping[str, DeploymentResponse]
) -> list[AutomationCore]:
    """The automations that Graft's deployments need."""
    retrained = {
        name: pipeline
        for name, pipeline in pipelines.items()
        if pipeline.monitoring and pipeline.monitoring.retrain
    }
    return [
        *watching(deployments["recover/runs"].id),
        *(
            retraining(name, pipeline, deployments[f"transfer/{name}"].id)
            for name, pipeline in retrained.items()
        ),
    ]


def retraining(name: str, pipeline: Pipeline, deployment: UUID) -> AutomationCore:
    """Text that drifted starts the pipeline again, which reads it without labels."""
    parameters: dict[str, Any] = {"name": name, "pipeline": pipeline.model_dump(mode="json")}
    parameters["pipeline"]["target"][pipeline.target_name]["more_text"] = "{{ event.payload.kept }}"
    return AutomationCore(
        name=f"graft: {name} is trained again when {pipeline.promotion.model} drifts",
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
        AutomationCore(
            name="graft: a worker fell silent",
            description=f"A run without a heartbeat for {SILENCE} s has crashed.",
            trigger=EventTrigger(
                after={beat},
                expect={beat, *(f"prefect.flow-run.{state}" for state in ENDS)},
                match={"prefect.resource.id": ["prefect.flow-run.*"]},
                match_related=OURS,
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=SILENCE),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED, message=f"Its worker was silent for {SILENCE} s."
                )
            ],
        ),
        AutomationCore(
            name="graft: a run crashed",
            description="It is started again, twice at most.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Crashed"},
                match={"prefect.resource.id": ["prefect.flow-run.*"]},
                match_related=OURS,
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                RunDeployment(
                    source="selected",
                    deployment_id=recover,
                    parameters={"crashed": "{{ flow_run.id }}"},
                )
            ],
        ),
    ]


def ensure(
    client: SyncPrefectClient, wanted: AutomationCore
) -> Iterator[tuple[str, Literal["new", "changed"]]]:
    """Make an automation as it is wanted; gives its name and what that did, if anything.

    Whether it is enabled is left to the UI.
    """
    found = client.read_automations_by_name(wanted.name)
    name = f"automation {wanted.name}"
    if not found:
        client.create_automation(wanted)
        yield name, "new"
        return
    kept = {"enabled": found[0].enabled, "owner_resource": found[0].owner_resource}
    had = AutomationCore.model_validate(found[0].model_dump(exclude={"id"}))
    if had != wanted.model_copy(update=kept):
        client.update_automation(found[0].id, wanted)
        yield name, "changed"
