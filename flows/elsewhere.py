"""The learning of a deployed pipeline, on the work pool it is to run on."""

from __future__ import annotations

import time
from itertools import count

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment, flow_run

from flows.learn import Start, sent
from tasks.config import Pipeline
from tasks.errors import ConfigError, WorkerError
from tasks.progress import logger
from tasks.tracking import Tracker

TRIES = 3
"""Crashes of the worker, after each of which another goes on from the last checkpoint."""
POLL_EVERY = 1.0
"""Seconds between two looks at how far it is."""


def wanted(pipeline: Pipeline) -> bool:
    """Whether this process is a deployed run, and its pipeline learns on another pool than it."""
    return deployment.id is not None and pipeline.run_on.transfer != pipeline.run_on.flow


def check(name: str, pipeline: Pipeline) -> None:
    """What a deployed run will start is there, before it has worked for hours.

    Raises:
        ConfigError: it is not.
    """
    needed: list[tuple[str, str | None]] = []
    if wanted(pipeline):
        needed.append((f"learn/{name}", pipeline.run_on.transfer))
    if pipeline.promotion.after_run:
        needed.append((f"promote/{pipeline.promotion.model}", None))
    with get_client(sync_client=True) as client:
        for one, pool in needed:
            try:
                found = client.read_deployment_by_name(one)
            except ObjectNotFound as error:
                raise ConfigError(f"there is no deployment {one}; graft deploy makes it") from error
            if pool and found.work_pool_name != pool:
                raise ConfigError(
                    f"run_on.transfer '{pool}': {one} is on '{found.work_pool_name}'; change it in "
                    "the file, and graft deploy"
                )


def learn(tracker: Tracker, pipeline: Pipeline, start: Start) -> None:
    """Have it done, and wait: the store then has every output.

    A run that was started before this process died is found again by its idempotency key.

    Raises:
        WorkerError: it failed, was cancelled, or crashed too often.
    """
    parameters = {
        "name": tracker.name,
        "pipeline": pipeline.model_dump(mode="json"),
        "mlflow_run": tracker.parent,
        "start": sent(start),
    }
    pool, crashes = pipeline.run_on.transfer, 0
    try:
        for attempt in count(1):
            run = run_deployment(
                f"learn/{tracker.name}",
                parameters=parameters,
                idempotency_key=f"{flow_run.id} {attempt}",
                timeout=0,
            )
            assert isinstance(run, FlowRun)
            if run.state and run.state.is_final() and not run.state.is_completed():
                continue  # what an earlier process of this run saw
            state, message = ended(run, pool)
            if state == "COMPLETED":
                return
            crashes += 1
            if state != "CRASHED" or crashes == TRIES:
                raise WorkerError(f"learning on work pool '{pool}' {state.lower()}: {message}")
            logger.warning("learning on %s crashed (%s); once more", pool, message)
    finally:
        tracker.adopt()


def ended(run: FlowRun, pool: str) -> tuple[str, str]:
    """What state a run ended in, and what it said."""
    told = None
    with get_client(sync_client=True) as client:
        while True:
            try:
                state = client.read_flow_run(run.id).state
            except httpx.TransportError as error:
                logger.warning("Prefect does not answer (%s); trying again", error)
                time.sleep(10 * POLL_EVERY)
                continue
            assert state is not None
            if state.is_final():
                return state.type.value, state.message or str(state.name)
            if state.name != told:
                told = state.name
                logger.info("learning on work pool '%s': %s", pool, told)
            time.sleep(POLL_EVERY)
