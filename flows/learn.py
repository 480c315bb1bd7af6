"""What learns and answers: the part of the DAG that wants a GPU.

Read `learn` below from top to bottom: each `run` is a node of the DAG. Where the pipeline's flow
runs on one work pool and this on another, `learning` runs it there as a flow of its own; the
store, which both share, then has every output, and the pipeline's flow finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from flows import slots
from tasks import predict, processes, source, store
from tasks import transfer as transferring
from tasks.config import Pipeline
from tasks.load import resolved
from tasks.stage import run
from tasks.tracking import Tracker, joined
from tasks.training import Origin


@dataclass(frozen=True)
class Start:
    """What learning begins with."""

    backbone: Origin
    parts: store.Output
    """The rows, split."""
    ready: store.Output
    """What says that backbone and rows go together."""


@dataclass(frozen=True)
class Learned:
    """What there is to be compared."""

    learners: Mapping[str, store.Output]
    """By system: source_only, target_only, transfer."""
    answers: Mapping[str, store.Output]
    """Of these and of the baselines, to the target's test rows."""
    on_sources: Mapping[tuple[str, str], store.Output]
    """By source and system, to a source's test rows."""
    origin: Origin
    """Where the transfer started."""


def learn(tracker: Tracker, pipeline: Pipeline, start: Start) -> Learned:
    """Pretrain, train on the sources, transfer, train the baselines, and ask them all."""
    for training in (pipeline.training, pipeline.source_training, pipeline.pretraining):
        if training is not None:
            processes.check(training.processes)
    parts, before = start.parts, start.ready
    if pipeline.pretraining:
        before = run(source.pretraining_stage(pipeline, start.backbone, parts), before)
        tracker.complete("pretraining", before.file("metrics.jsonl"))
    pretrained = Origin.of(before, heads=False) if pipeline.pretraining else start.backbone
    learners, origin = {}, pretrained
    if pipeline.source_training:
        before = run(source.source_stage(pipeline, pretrained, parts), before)
        tracker.complete("source", before.file("metrics.jsonl"))
        origin = Origin.of(before)
        if pipeline.sources_share_task:
            learners["source_only"] = before
    unlabelled = pipeline.target[pipeline.target_name].labelled == 0
    paradigm = pipeline.paradigm
    if "target_only" in pipeline.baselines and not unlabelled:
        target_only = transferring.stage(
            pipeline, paradigm.alone, start.backbone, parts, "target_only"
        )
        learners["target_only"] = run(target_only, start.ready)
        tracker.complete("target_only", learners["target_only"].file("metrics.jsonl"))
    if paradigm.adaptation:
        before = run(transferring.stage(pipeline, paradigm, origin, parts, paradigm.kind), before)
        tracker.complete(paradigm.kind, before.file("metrics.jsonl"))
        origin = Origin.of(before)
    last = paradigm.adaptation or paradigm
    transferred = transferring.stage(pipeline, last, origin, parts, "transfer")
    learners["transfer"] = run(transferred, before)
    tracker.complete("transfer", learners["transfer"].file("metrics.jsonl"))

    answers = {
        name: run(predict.stage(pipeline, parts, learner, name, pipeline.target_name), learner)
        for name, learner in learners.items()
        if name == "transfer" or name in pipeline.baselines
    }
    on_sources = {
        (source, name): run(
            predict.stage(pipeline, parts, learners[name], name, source), learners[name]
        )
        for source in pipeline.retained
        for name in ("source_only", "transfer")
    }
    return Learned(learners, answers, on_sources, origin)


@flow(name="learn", flow_run_name="{name}", validate_parameters=False, persist_result=False)
def learning(name: str, pipeline: Pipeline, mlflow_run: str, start: dict[str, Any]) -> None:
    """Learn and answer for the run of a pipeline that waits for it on another work pool.

    Args:
        name: the pipeline's name.
        pipeline: its whole configuration.
        mlflow_run: the MLflow run of the run that waits.
        start: where its rows and backbone lie in the store that both share.
    """
    pipeline = resolved(pipeline)
    with slots.held(), joined(name, pipeline, mlflow_run) as tracker:
        learn(tracker, pipeline, received(start))


def sent(start: Start) -> dict[str, Any]:
    """A start as the JSON that travels to another work pool; see `received`."""
    return {
        "backbone": {"path": str(start.backbone.backbone), "digest": start.backbone.digest},
        "parts": start.parts.record,
        "ready": start.ready.record,
    }


def received(start: Mapping[str, Any]) -> Start:
    """What `sent` wrote.

    Raises:
        StoreError: this process has another store.
    """
    backbone = Origin(Path(start["backbone"]["path"]), start["backbone"]["digest"])
    return Start(backbone, store.opened(start["parts"]), store.opened(start["ready"]))
