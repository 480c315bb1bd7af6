"""The evaluation stage: the transfer and its baselines on the same frozen test rows.

report.json               scores with intervals, the gain and its tests
predictions/<name>.parquet   id, label, prediction, one file a system
pictures/*.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import pictures, predict, shift, store
from tasks.comparison import TRANSFER, compare
from tasks.config import Pipeline
from tasks.learning.contracts import Prediction, Row
from tasks.stage import Stage
from tasks.training import Origin, read_rows


def stage(
    pipeline: Pipeline,
    split: store.Output,
    learners: Mapping[str, store.Output],
    answers: Mapping[str, store.Output],
    on_sources: Mapping[tuple[str, str], store.Output],
    start: Origin,
) -> Stage:
    """Score every system that answered, and the trivial one where it is asked for.

    Args:
        pipeline: what is compared, and how.
        split: all domains' rows.
        learners: by system, for their curves; the transfer's features are measured.
        answers: by system, what `tasks.predict` wrote.
        on_sources: by source and system, the same of the sources' own test rows.
        start: what the transfer started from.
    """
    target = pipeline.target_name
    unlabelled = pipeline.target[target].labelled == 0
    domains = list(pipeline.domains) if pipeline.paradigm.reads_text or unlabelled else []

    def compute(folder: Path) -> None:
        rows = read_rows(split.file(f"{target}/test.parquet"))
        predictions = {name: predict.read(output) for name, output in answers.items()}
        floor = pipeline.application.floor
        if floor in pipeline.baselines:
            predictions = {floor: trivial(pipeline, split, rows), **predictions}
        (folder / "predictions").mkdir(exist_ok=True)
        for name, predicted in predictions.items():
            write_predictions(folder / "predictions" / f"{name}.parquet", rows, predicted)
        report = compare(pipeline, predictions, rows)
        shifts = {}
        if pipeline.paradigm.reads_text:
            after = learners[TRANSFER].file("learner") / "backbone"
            shifts = shift.measure(pipeline, split, {"before": start.backbone, "after": after})
        report["shift"] = {moment: found.distance for moment, found in shifts.items()}
        report["retention"] = {
            name: retention(pipeline, split, name, on_sources) for name in pipeline.retained
        }
        report["affinities"] = affinities(learners[TRANSFER])
        trained = {name: one.read_json("training.json") for name, one in learners.items()}
        report["cut"] = {
            "tested": answers[TRANSFER].read_json(predict.CUT),
            "learned": {n: {k: one[k] for k in ("cut", "rows")} for n, one in trained.items()},
        }
        report["test_digest"] = split.digest(f"{target}/test.parquet")
        (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        curves = {
            name: [json.loads(line) for line in output.file("metrics.jsonl").open()]
            for name, output in learners.items()
        }
        pictures.draw_all(folder / "pictures", pipeline, report, curves, predictions, rows)
        if shifts:
            pictures.domains(shifts).savefig(folder / "pictures" / "domains.png", dpi=120)

    return Stage(
        "evaluate",
        target,
        {
            "evaluation": pipeline.evaluation.model_dump(mode="json"),
            "application": pipeline.application.model_dump(mode="json"),
            "metric": pipeline.metric,
            "seed": pipeline.seed,
        },
        {
            "test": split.digest(f"{target}/test.parquet"),
            "train": split.digest(f"{target}/train.parquet"),
            "start": start.digest,
            # What the shift is measured on; what is counted without labels of the target.
            **{f"rows of {name}": split.digest(f"{name}/") for name in domains},
            "transferred": learners[TRANSFER].digest("learner/"),
            **{f"{n} curve": output.digest("metrics.jsonl") for n, output in learners.items()},
            **{f"{name} answers": output.digest(predict.FILE) for name, output in answers.items()},
            **{
                f"{name} on {source}": output.digest(predict.FILE)
                for (source, name), output in on_sources.items()
            },
        },
        compute,
    )


def retention(
    pipeline: Pipeline,
    split: store.Output,
    source: str,
    answers: Mapping[tuple[str, str], store.Output],
) -> dict[str, Any]:
    """What is left of a source: {"rows": 500, "before": {"value": …}, "after": …, "gain": …}."""
    rows = read_rows(split.file(f"{source}/test.parquet"))
    said = {name: predict.read(answers[source, name]) for name in ("source_only", TRANSFER)}
    report = compare(pipeline, said, rows)
    before, after = (report["systems"][name][pipeline.metric] for name in said)
    gain = report["gains"]["source_only"]
    found = {bound: gain[bound] for bound in ("value", "low", "high")}
    return {"rows": len(rows), "before": before, "after": after, "gain": found}


def affinities(learner: store.Output) -> dict[str, float]:
    """What multi-task learning measured: "affinity/news/ner" -> the mean over its probes."""
    found: dict[str, list[float]] = {}
    for line in learner.file("metrics.jsonl").open(encoding="utf-8"):
        for name, value in json.loads(line).items():
            if name.startswith("affinity/"):
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def trivial(pipeline: Pipeline, split: store.Output, asked: Sequence[Row]) -> list[Prediction]:
    """What needs no learning, having seen the target's training rows, or, if it has none, the
    sources'."""
    application = pipeline.application
    alike = [name for name in pipeline.sources if pipeline.task(name) == application.kind]

    def labelled(*domains: str) -> list[Row]:
        return [row for name in domains for row in read_rows(split.file(f"{name}/train.parquet"))]

    return application.trivial(labelled(pipeline.target_name) or labelled(*alike), asked)


def write_predictions(path: Path, rows: Sequence[Row], predictions: Sequence[Prediction]) -> None:
    """One line an example: its id, text, label, and what was predicted."""
    import pandas as pd

    table = pd.DataFrame(list(rows)).drop(columns=["group"], errors="ignore")
    predicted = pd.DataFrame(list(predictions)).add_prefix("predicted_")
    pd.concat([table, predicted], axis=1).to_parquet(path, index=False)
