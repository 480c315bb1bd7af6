"""The transfer stage: the paradigm takes a starting point to the target's labels.

`transfer` starts from the source; `target_only`, the baseline it must beat, from the backbone as
it came, without the sources' rows. Target rows, epochs and rates are the same for both.
"""

from __future__ import annotations

from pathlib import Path

from tasks import store
from tasks.config import Pipeline
from tasks.learning.contracts import Paradigm
from tasks.stage import Stage
from tasks.training import Origin, Rows, fit, read_rows


def stage(
    pipeline: Pipeline, paradigm: Paradigm, origin: Origin, split: store.Output, subject: str
) -> Stage:
    """Train from `origin` on the target's labelled rows, and on what else the paradigm reads."""
    target, task = pipeline.target_name, pipeline.application.kind
    sources = list(pipeline.sources) if paradigm.reads_sources else []
    texts = ["train", "unlabelled"] if paradigm.reads_text else []

    def compute(folder: Path) -> None:
        rows = Rows(
            {task: read_rows(split.file(f"{target}/train.parquet"))},
            {task: read_rows(split.file(f"{target}/validation.parquet"))},
            {name: read_rows(split.file(f"{name}/train.parquet")) for name in sources},
            [row for part in texts for row in read_rows(split.file(f"{target}/{part}.parquet"))],
        )
        fit(pipeline, origin, rows, paradigm, pipeline.training, folder, subject)

    return Stage(
        "transfer",
        subject,
        {
            "paradigm": paradigm.model_dump(mode="json"),
            "training": pipeline.training.model_dump(mode="json"),
            "tasks": {n: a.model_dump(mode="json") for n, a in pipeline.tasks.items()},
            "sources": sources,  # in the order they are drawn in
            "metric": pipeline.metric,
            "seed": pipeline.seed,
        },
        {
            "origin": origin.digest,
            "heads": str(origin.heads is not None),
            "train": split.digest(f"{target}/train.parquet"),
            "validation": split.digest(f"{target}/validation.parquet"),
            **{f"source {name}": split.digest(f"{name}/train.parquet") for name in sources},
            **{f"text of {part}": split.digest(f"{target}/{part}.parquet") for part in texts},
        },
        compute,
    )
