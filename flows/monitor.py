"""The monitoring flow: fresh text against the text a champion was made for.

Read `monitor` below from top to bottom: each line is a node of the DAG, or tells what was found.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.announce import announce_drift
from flows.drift import markdown
from tasks import drift, fresh, watch
from tasks.stage import plan

Model = Annotated[str, Field(min_length=1, description="A registered model with a champion.")]
Text = Annotated[
    str,
    Field(
        min_length=1,
        description="A file of fresh text (jsonl, csv, parquet or txt, as graft predict takes it), "
        "or the word served: what graft serve --log kept.",
    ),
]
FalseAlarms = Annotated[
    float,
    Field(
        ge=0.001,
        le=0.5,
        description="How often text like that of the model's domain may raise an alarm, by all "
        "measures together.",
    ),
]


@flow(name="monitor", flow_run_name="{model}", persist_result=False)
def monitor(model: Model, text: Text, false_alarms: FalseAlarms = 0.05) -> dict[str, Any]:
    """Tell whether fresh text is what the champion of a model was made for.

    Args:
        model: its name in the registry.
        text: a file of fresh text, or `served`: what `graft serve --log` kept.
        false_alarms: how often text like that of the model's domain may raise an alarm, by all
            measures together.

    Returns:
        The report: see `tasks/drift.py`.
    """
    found = plan("find", model, watch.watched, model, text)
    read = plan("read", text, fresh.fresh_text, found, text)
    seen = plan("ask", model, drift.look, found, read.apart)
    report = plan("judge", model, drift.judge, found, seen, len(read.rows), text, false_alarms)
    if report["drifted"]:
        report["kept"] = fresh.keep(found, read.rows)
    with TemporaryDirectory() as folder:
        report["run"] = drift.log(found, seen, report, Path(folder))
    if report["drifted"]:
        announce_drift(report)
    create_markdown_artifact(
        key=f"{model.lower().replace('_', '-')}-drift", markdown=markdown(report)
    )
    return report
