"""A pipeline whose worker died is started again, and goes on from what is in the store."""

from __future__ import annotations

from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import AwaitingRetry, Cancelled

from tasks.progress import logger

TRIES = 3
"""Starts of one run in all, whether or not it came to run."""


@flow(name="recover", persist_result=False)
def recover(crashed: str) -> str:
    """Start a crashed run again, unless another run waits for it or it crashed too often.

    Args:
        crashed: the id of a flow run.

    Returns:
        What was done.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(crashed))
        states = client.read_flow_run_states(run.id)
        crashes = sum(state.is_crashed() for state in states)
        if run.state is None or not run.state.is_crashed():
            done = "not crashed any more"
        elif len(states) > 1 and states[-2].is_cancelling():
            client.set_flow_run_state(run.id, Cancelled(), force=True)
            done = "was to be cancelled, and is"
        elif run.parent_task_run_id:
            done = "left to the run that started it"
        elif crashes >= TRIES:
            done = f"crashed {crashes} times; it is not started again"
        else:
            client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
            done = "started again"
    logger.info("flow run %s (%s): %s", run.name, crashed, done)
    return done
