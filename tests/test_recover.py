"""What becomes of a run that crashed."""

from __future__ import annotations

from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Cancelling, Completed, Crashed, Pending, Running, State

from flows.recover import recover

pytestmark = pytest.mark.integration


@flow
def learns() -> None:
    """Never run here."""


def through(client: SyncPrefectClient, *states: State[None], run: UUID | None = None) -> UUID:
    """A run, a new one unless it is given, that goes through these states."""
    run = run or client.create_flow_run(learns).id
    for state in states:
        client.set_flow_run_state(run, state, force=True)
    return run


def test_a_run_that_never_ran_is_started_twice_again() -> None:
    """A worker that cannot begin it would else be asked for ever."""
    with get_client(sync_client=True) as client:
        run = through(client, Pending(), Crashed())
        assert recover.fn(str(run)) == "started again"
        state = client.read_flow_run(run).state
        assert state is not None
        assert state.name == "AwaitingRetry"
        through(client, Pending(), Crashed(), run=run)
        assert recover.fn(str(run)) == "started again"
        through(client, Pending(), Crashed(), run=run)
        assert recover.fn(str(run)) == "crashed 3 times; it is not started again"


def test_a_run_that_was_to_be_cancelled_is() -> None:
    """It crashed in the middle of that."""
    with get_client(sync_client=True) as client:
        run = through(client, Running(), Cancelling(), Crashed())
        assert recover.fn(str(run)) == "was to be cancelled, and is"
        state = client.read_flow_run(run).state
        assert state is not None
        assert state.is_cancelled()


def test_a_run_that_goes_on_is_left() -> None:
    """Somebody else was faster."""
    with get_client(sync_client=True) as client:
        run = through(client, Running(), Crashed(), Running())
        assert recover.fn(str(run)) == "not crashed any more"
        through(client, Completed(), run=run)
        assert recover.fn(str(run)) == "not crashed any more"
