"""What a stage is, and the one place where it becomes a Prefect task."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks import progress, store


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


def run(stage: Stage, *, retries: int = 0) -> store.Output:
    """Run a stage as a Prefect task, or take its output from the store.

    A hit counts only if the folder is there and its manifest holds; Prefect's own record of the
    result is refreshed otherwise. Retries suit stages that fetch, never those that compute.
    """
    from prefect import task

    held = store.find(stage.name, stage.key)

    def produce() -> dict[str, str]:
        output = store.produce(stage.name, stage.key, stage.compute)
        return {"stage": output.stage, "key": output.key, "path": str(output.path)}

    started = time.monotonic()
    name = f"{stage.name} {stage.subject}"
    progress.start(stage.name, stage.subject, cached=held is not None)
    task(
        name=stage.name,
        task_run_name=name,
        cache_key_fn=lambda _context, _parameters: f"{stage.name}-{stage.key}",
        refresh_cache=held is None,
        persist_result=True,
        result_serializer="json",
        retries=retries,
        retry_delay_seconds=5,
    )(produce)()
    path = store.home() / "artifacts" / stage.name / stage.key
    output = held or store.Output(stage.name, stage.key, path, cached=False)
    progress.finish(stage.name, stage.subject, time.monotonic() - started, cached=held is not None)
    return output
