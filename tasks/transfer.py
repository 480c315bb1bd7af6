"""The transfer stage: the paradigm takes a starting point to the target's labels.

A paradigm that learns from the sources alone, such as meta-learning, has this stage to itself, and
its adaptation to the target's labels has it again: new labels do not repeat the first.

`transfer` starts from the source; `target_only`, the baseline it must beat, from the backbone as
it came, without the sources' rows. Target rows, epochs and rates are the same for both.
"""

from __future__ import annotations

from pathlib import Path

from tasks import store
from tasks.config import Pipeline
from tasks.learning.contracts import Paradigm, Row
from tasks.stage import Stage
from tasks.training import Origin, Rows, fit, read_rows, training_key

OF_THE_ADAPTATION = {"epochs", "learning_rate", "tokens_per_batch"}
"""What of `training` is nothing to a paradigm that does not read the target: it has its own."""


def stage(
    pipeline: Pipeline, paradigm: Paradigm, origin: Origin, split: store.Output, subject: str
) -> Stage:
    """Train from `origin` on whatever the paradigm reads: the target's labels, and more."""
    target = pipeline.target_name
    task: str = pipeline.application.kind
    parts = ["train", "validation"] if paradigm.reads_target else []
    sources = list(pipeline.sources) if paradigm.reads_sources else []
    training = pipeline.training
    if not paradigm.reads_target:  # then no score of the target's tells when to stop
        training = training.model_copy(update={"early_stopping": None})
    texts = ["train", "unlabelled"] if paradigm.reads_text else []
    stopping = training.early_stopping
    watched = ["unlabelled"] if stopping and stopping.watch == "text" else []

    def read(parts: list[str]) -> list[Row]:
        return [row for part in parts for row in read_rows(split.file(f"{target}/{part}.parquet"))]

    def compute(folder: Path) -> None:
        train, validation = (
            {task: read_rows(split.file(f"{target}/{part}.parquet"))} if part in parts else {}
            for part in ("train", "validation")
        )
        rows = Rows(
            train,
            validation,
            {name: read_rows(split.file(f"{name}/train.parquet")) for name in sources},
            read(texts),
            read(watched),
        )
        fit(pipeline, origin, rows, paradigm, training, folder, subject)

    return Stage(
        "transfer",
        subject,
        {
            "paradigm": paradigm.model_dump(mode="json"),
            "training": training_key(training, () if paradigm.reads_target else OF_THE_ADAPTATION),
            "tasks": {n: a.model_dump(mode="json") for n, a in pipeline.tasks.items()},
            "sources": sources,  # in the order they are drawn in
            "metric": pipeline.metric if stopping else None,
            "seed": pipeline.seed,
        },
        {
            "origin": origin.digest,
            "heads": str(origin.heads is not None),
            **{part: split.digest(f"{target}/{part}.parquet") for part in parts},
            **{f"source {name}": split.digest(f"{name}/train.parquet") for name in sources},
            **{
                f"text of {part}": split.digest(f"{target}/{part}.parquet")
                for part in dict.fromkeys([*texts, *watched])
            },
        },
        compute,
    )
