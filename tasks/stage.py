"""What a stage is, and the one place where it becomes a Prefect task."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tasks import progress, store
from tasks.errors import Unreachable

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """A planned step of the DAG: what identifies its output, and how to compute it."""

    name: str
    """The folder under `artifacts/` and the first half of the Prefect task's name."""
    subject: str
    """What it works on, for people: a domain, or a model."""
    config: Any
    """Everything configured that changes the output, as JSON."""
    inputs: Mapping[str, str]
    """Digests of everything read."""
    compute: Callable[[Path], None] = field(repr=False)
    """Writes the output into the folder it is given; what is there already is a killed run's."""

    @property
    def key(self) -> str:
        """The output's identity, and Prefect's cache key."""
        return store.stage_key(self.name, self.config, self.inputs)


def run(stage: Stage, *after: store.Output) -> store.Output:
    """Run a stage as a Prefect task, or take its output from the store.

    A hit counts only if the folder is there and its manifest holds; Prefect's own record of the
    result is refreshed otherwise.

    Args:
        stage: what to run.
        after: the outputs it reads; Prefect draws an edge from each.
    """
    from prefect import task

    held = store.find(stage.name, stage.key)

    def produce(after: list[dict[str, str]]) -> dict[str, str]:
        output = store.produce(stage.name, stage.key, stage.compute)
        return {"stage": output.stage, "key": output.key, "path": str(output.path)}

    started = time.monotonic()
    progress.start(stage.name, stage.subject, cached=held is not None)
    record = task(
        name=stage.name,
        task_run_name=f"{stage.name} {stage.subject}",
        cache_key_fn=lambda _context, _parameters: f"{stage.name}-{stage.key}",
        refresh_cache=held is None,
        persist_result=True,
        result_serializer="json",
        retries=1,
        retry_delay_seconds=2,
        retry_condition_fn=_may_pass,
    )(produce)([output.record for output in after])
    progress.finish(stage.name, stage.subject, time.monotonic() - started, cached=held is not None)
    path = store.home() / "artifacts" / stage.name / stage.key
    return store.Output(stage.name, stage.key, path, cached=held is not None, record=record)


def plan(name: str, subject: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call, as a Prefect task with retries, a function whose result is not kept: it may have to
    download something, or must look anew."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    planned = task(
        name=name,
        task_run_name=f"{name} {subject}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2,
        retry_delay_seconds=[2, 10],
        retry_condition_fn=_may_pass,
    )(function)
    started = time.monotonic()
    progress.start(name, subject, cached=False)
    found = planned(*arguments)
    progress.finish(name, subject, time.monotonic() - started, cached=False)
    return found


def _may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what may be a passing fault: a network, a server; never a refusal of the input."""
    try:
        state.result()
    except (Unreachable, ConnectionError, TimeoutError):
        return True
    except Exception:
        return False
    return False
