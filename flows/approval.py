"""A person's word on a promotion: a form in the Prefect UI, or `graft approve`.

`graft promote` waits for it. A deployed promotion ends instead, and `approval`, a flow of its own,
is suspended until it comes: no worker waits. `deadline` answers where nobody does.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound
from prefect.flow_runs import pause_flow_run, resume_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field, ValidationError

from flows.announce import conclude
from flows.server import TEMPORARY
from tasks import progress
from tasks.errors import ConfigError, SourceUnavailable, Unreachable
from tasks.history import Decision
from tasks.promote import Case, decide

POLL_EVERY = 3
"""Seconds between two looks whether someone has answered."""


GRACE = 24 * 3600
"""Seconds beyond the deadline until the server would end a suspended run, and nobody had answered
in the ledger."""


class Approval(RunInput):
    """What a person decides on a promotion."""

    approve: Literal["yes", "no"] = Field(description="Promote it?")  # a switch has no "unanswered"
    by: str = Field(min_length=1, max_length=100, description="Who you are.")
    because: str = Field(default="", max_length=800, description="Why.")


def asked(evidence: str, reason: str, hours: float) -> tuple[Decision, str, str]:
    """Pause the flow until someone answers; the decision, who made it and why.

    Args:
        evidence: Markdown that the form shows.
        reason: what speaks for the promotion.
        hours: how long an answer is waited for; then it is not promoted.
    """
    progress.logger.warning(
        "waiting for an approval, in the Prefect UI or by: graft approve %s --by NAME", flow_run.id
    )
    form = Approval.with_initial_data(description=evidence)
    try:
        answer = pause_flow_run(form, timeout=round(hours * 3600), poll_interval=POLL_EVERY)
    except FlowPauseTimeout:
        return "rejected", "graft", NOBODY.format(hours=hours)
    assert answer is not None
    return understood(answer, reason)


NOBODY = "nobody approved it within {hours:g} hours"


def begin(case: Case, evidence: str, reason: str, hours: float) -> None:
    """Have `approval` ask, and `deadline` answer when the time is over."""
    name = case.model
    parameters = {"case": asdict(case), "evidence": evidence, "reason": reason, "hours": hours}
    asking = run_deployment(
        f"approval/{name}",
        parameters=parameters,
        timeout=0,
        as_subflow=False,
        idempotency_key=f"{flow_run.id} approval",  # a promotion that is started again asks once
    )
    assert isinstance(asking, FlowRun)
    run_deployment(
        f"deadline/{name}",
        parameters={"run": str(asking.id), "hours": hours},
        scheduled_time=datetime.now(UTC) + timedelta(hours=hours),
        timeout=0,
        as_subflow=False,
        idempotency_key=f"{flow_run.id} deadline",
    )
    progress.logger.warning(
        "an approval is waited for, in the Prefect UI or by: graft approve %s --by NAME", asking.id
    )


@flow(name="approval", flow_run_name="{case.model} {case.version}", persist_result=False)
def approval(case: Case, evidence: str, reason: str, hours: float) -> dict[str, Any]:
    """Ask a person whether a challenger is promoted, and write what they say to the ledger.

    Args:
        case: what is to be decided.
        evidence: Markdown that the form shows.
        reason: what speaks for the promotion.
        hours: how long an answer is waited for.

    Returns:
        The ledger's entry.
    """
    form = Approval.with_initial_data(description=evidence)
    answer = suspend_flow_run(form, timeout=round(hours * 3600) + GRACE)
    decided, by, because = understood(answer, reason)
    entry = decide(case, decided, by, because)
    conclude(case.model, entry, evidence)
    return vars(entry)


@flow(name="deadline", persist_result=False)
def deadline(run: str, hours: float) -> None:
    """Answer "no" for an approval that nobody answered.

    Args:
        run: the flow run that waits.
        hours: how long it has waited.
    """
    told = Approval(approve="no", by="graft", because=NOBODY.format(hours=hours))
    with get_client(sync_client=True) as client:
        while not (state := client.read_flow_run(UUID(run)).state) or not state.is_final():
            if state and state.is_paused():  # before that, no worker has begun to ask
                with suppress(NotPausedError, RuntimeError):  # another answer, or no form yet
                    resume_flow_run(UUID(run), told.model_dump())
            time.sleep(POLL_EVERY)
    progress.logger.info("flow run %s has its answer", run)


def understood(answer: Approval, reason: str) -> tuple[Decision, str, str]:
    """The decision, who made it and why."""
    if answer.approve == "yes":
        return "promoted", answer.by, answer.because or reason
    return "rejected", answer.by, answer.because or "no reason given"


def answer(run: str, approve: bool, by: str, because: str) -> None:
    """Answer for a promotion that waits.

    Raises:
        ConfigError: no server is named, this is no run's id, or the answer is too long.
        Unreachable: the server does not answer.
        SourceUnavailable: no such run waits.
    """
    check_server()
    try:
        told = Approval(approve="yes" if approve else "no", by=by, because=because)
        resume_flow_run(UUID(run), told.model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg']}") from error
    except ValueError as error:
        raise ConfigError(f"'{run}' is no id of a flow run, as graft promote printed it") from error
    except httpx.TransportError as error:
        raise Unreachable(f"{os.environ['PREFECT_API_URL']}: {error}") from error
    except (NotPausedError, ObjectNotFound, FlowPauseTimeout, RuntimeError) as error:
        raise SourceUnavailable(f"flow run {run}: no promotion that waits for an answer") from error


def check_server() -> None:
    """An approval needs a server that outlives the command.

    Raises:
        ConfigError: none is named.
    """
    if "PREFECT_API_URL" not in os.environ or TEMPORARY in os.environ:
        raise ConfigError(
            "promotion.approval: set PREFECT_API_URL to the Prefect server where it is asked for "
            "(prefect server start)"
        )
