"""A person's word on a promotion: a form in the Prefect UI, or `graft approve`."""

from __future__ import annotations

import os
from typing import Literal
from uuid import UUID

import httpx
from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field, ValidationError

from flows.server import TEMPORARY
from tasks import progress
from tasks.errors import ConfigError, SourceUnavailable, Unreachable
from tasks.history import Decision

POLL_EVERY = 3
"""Seconds between two looks whether someone has answered."""


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
        return "rejected", "graft", f"nobody approved it within {hours:g} hours"
    assert answer is not None
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
