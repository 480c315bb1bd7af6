"""THE flow: ingest → validate → split → ready → source → transfer → predict → evaluate → register.

Read `transfer` below from top to bottom, and `learn` in flows/learn.py: each line is a node of the
DAG.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.deployments import run_deployment
from prefect.runtime import deployment, flow_run

from flows import elsewhere, slots
from flows.learn import Start, learn
from flows.report import markdown_table
from tasks import (
    evaluate,
    ingest,
    readiness,
    register,
    scratch,
    source,
    split,
    store,
    validate,
    watch,
)
from tasks.config import Name, Pipeline
from tasks.errors import DataRejected
from tasks.load import resolved
from tasks.stage import plan, run
from tasks.tracking import Tracker, tracked
from tasks.training import Origin


@flow(name="transfer", flow_run_name="{name}", validate_parameters=False, persist_result=False)
def transfer(name: Name, pipeline: Pipeline) -> dict[str, Any]:
    """Carry knowledge from the sources to the target, measure it, and register the result.

    Args:
        name: the pipeline's name; the MLflow experiment is called the same.
        pipeline: its whole configuration.

    Returns:
        evaluation (the report), registration (model, version), run (the MLflow run id).
    """
    pipeline = resolved(pipeline)
    if deployment.id:
        elsewhere.check(name, pipeline)
    with tracked(name, pipeline, flow_run.id if deployment.id else None) as tracker:
        backbone = None
        if pipeline.backbone.path:
            backbone = plan("fetch", "backbone", source.locate, pipeline.backbone)

        valid = {}
        for domain, config in pipeline.domains.items():
            application = pipeline.application_of(domain)
            rows = run(plan("fetch", domain, ingest.stage, domain, config, application))
            gate = validate.stage(domain, rows, application, pipeline.validation)
            try:
                valid[domain] = run(gate, rows)
                record_validation(tracker, domain, valid[domain].path)
            except DataRejected:
                record_validation(tracker, domain, store.work_folder(gate.name, gate.key))
                raise
        parts = run(split.stage(pipeline, valid), *valid.values())
        record_data(tracker, valid, parts)
        before = parts
        if backbone is None:
            before = run(scratch.stage(pipeline, parts), before)
            backbone = Origin.of(before, heads=False)
        ready = run(readiness.stage(pipeline, backbone, parts), before)

        start = Start(backbone, parts, ready)
        if elsewhere.wanted(pipeline):
            elsewhere.learn(tracker, pipeline, start)
        with slots.held():  # of this worker, if it has any
            learned = learn(tracker, pipeline, start)

        evaluated = evaluate.stage(
            pipeline, parts, learned.learners, learned.answers, learned.on_sources, learned.origin
        )
        asked = (*learned.answers.values(), *learned.on_sources.values())
        evaluation = run(evaluated, *asked)
        record_evaluation(tracker, evaluation)
        registered = register.stage(tracker, parts, learned.learners["transfer"], evaluation)
        found = conclude(tracker, evaluation, run(registered, evaluation))
    if deployment.id and pipeline.promotion.after_run:
        run_deployment(
            f"promote/{pipeline.promotion.model}",
            timeout=0,
            as_subflow=False,
            idempotency_key=f"{flow_run.id} promote",
        )
    return found


def record_validation(tracker: Tracker, domain: str, folder: Path) -> None:
    """Data Docs and quarantined rows, of a gate that opened or stayed shut."""
    for name in ("data_docs", "quarantine.jsonl"):
        if (folder / name).exists():
            tracker.artifact(tracker.parent, folder / name, f"validation/{domain}")


def record_data(tracker: Tracker, valid: dict[str, store.Output], parts: store.Output) -> None:
    """Data digests and counts, on the parent run."""
    for domain, output in valid.items():
        report = output.read_json("report.json")
        tracker.values(
            tracker.parent,
            {f"{domain}_{told}": report[told] for told in ("rows", "rejected", "left_out")},
        )
        for part in ("train", "test"):
            path = parts.file(f"{domain}/{part}.parquet")
            digest = parts.digest(f"{domain}/{part}.parquet")
            tracker.data(tracker.parent, f"{domain}-{part}", path, digest, part)
    tracker.client.log_dict(tracker.parent, parts.read_json("report.json"), "split.json")
    # What a promotion scores on, and what it must leave out; see tasks/promote.py.
    tracker.artifact(
        tracker.parent, parts.file(f"{tracker.pipeline.target_name}/test.parquet"), "frozen"
    )
    tracker.artifact(tracker.parent, parts.file(split.LEARNED), "frozen")
    with TemporaryDirectory() as folder:  # what fresh text is compared with; see tasks/watch.py
        text = watch.write_text(tracker.pipeline, parts, Path(folder))
        tracker.artifact(tracker.parent, text, "frozen")


def record_evaluation(tracker: Tracker, evaluation: store.Output) -> None:
    """Scores on each system's run; the gain, pictures and predictions on the parent."""
    report = evaluation.read_json("report.json")
    for name, scores in report["systems"].items():
        tracker.values(
            tracker.child(name),
            {
                (f"test_{metric}_{bound}" if bound != "value" else f"test_{metric}"): value
                for metric, found in scores.items()
                for bound, value in found.items()
            },
        )
    for metric, signature in report["signatures"].items():
        tracker.tag(tracker.parent, f"graft.signature.{metric}", signature)
    for name, traits in report["traits"].items():
        tracker.values(tracker.child(name), {f"test_{trait}": v for trait, v in traits.items()})
    shift = {f"a_distance_{moment}": value for moment, value in report["shift"].items()}
    tracker.values(tracker.child("transfer"), shift)
    retained = {f"gain_on_{name}": f["gain"]["value"] for name, f in report["retention"].items()}
    tracker.values(tracker.parent, retained)
    gains = {f"gain_over_{name}": gain["value"] for name, gain in report["gains"].items()}
    transferred = report["systems"]["transfer"][report["metric"]]["value"]
    tracker.values(tracker.parent, {f"test_{report['metric']}": transferred, **gains})
    tracker.artifact(tracker.parent, evaluation.path, "evaluation")


def conclude(
    tracker: Tracker, evaluation: store.Output, registration: store.Output
) -> dict[str, Any]:
    """What the run found, as the flow's result and as an artifact in the Prefect UI."""
    report = evaluation.read_json("report.json")
    registered = registration.read_json("registration.json")
    # On every run, a cached one too: the challenger is what was run last.
    tracker.challenge(registered["model"], registered["version"])
    tracker.tag(tracker.parent, "graft.model", f"{registered['model']}/{registered['version']}")
    create_markdown_artifact(
        key=f"{tracker.name.lower().replace('_', '-')}-evaluation",
        markdown=markdown_table(report)
        + f"\nRegistered: {registered['model']} version {registered['version']}, alias challenger."
        + f"\nMLflow run: {tracker.parent}\n",
        description=tracker.pipeline.description,
    )
    return {
        "evaluation": report,
        "registration": {**registered, "cached": registration.cached},
        "run": tracker.parent,
    }
