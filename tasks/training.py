"""From rows and a starting point to a trained learner in a folder; what source and transfer share.

learner/            see tasks/learning/learner.py
metrics.jsonl       {"step": 10, "loss": 0.61, "learning_rate": 4.1e-05, …}
training.json       steps, seconds, rows, tokens, trainable parameters, device, precision
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import progress
from tasks.config import Pipeline, Training
from tasks.errors import ConfigError, DataRejected
from tasks.learning.contracts import Example, Paradigm, Row, Unfit

if TYPE_CHECKING:
    from tasks.learning.applications import AnyApplication
    from tasks.learning.learner import Learner
    from tasks.learning.loop import Schedule


@dataclass(frozen=True)
class Origin:
    """Where a learner starts: a backbone, and trained heads if there are any."""

    backbone: Path
    digest: str
    heads: Path | None = None

    @classmethod
    def of(cls, output: Any) -> Origin:
        """The learner that an earlier training stage wrote."""
        folder = output.file("learner")
        return cls(folder / "backbone", output.digest("learner/"), folder)


def read_rows(path: Path) -> list[Row]:
    """The rows of a Parquet file."""
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def fit(
    pipeline: Pipeline,
    origin: Origin,
    rows: Sequence[Row],
    validation_rows: Sequence[Row],
    paradigm: Paradigm,
    training: Training,
    folder: Path,
    subject: str,
) -> None:
    """Train from `origin` on `rows` and write the learner; resumes what `folder` holds.

    Raises:
        ConfigError: the paradigm does not fit the backbone (too many layers to freeze), or early
            stopping has no validation rows to watch.
        DataRejected: there are no rows to train on.
    """
    from tasks.learning import loop
    from tasks.learning.batches import Stream
    from tasks.learning.prediction import score

    if not rows:
        raise DataRejected(f"{subject}: no labelled rows to train on")
    if training.early_stopping and not validation_rows:
        raise ConfigError(
            f"{subject}: early_stopping has no validation rows to watch; raise split.validation"
        )
    application = pipeline.application
    task = application.kind
    learner = start(pipeline, origin)
    learner.backbone.set_dropout(training.dropout)
    examples = application.encode(rows, learner.tokenizer)
    stream = Stream(
        task,
        examples,
        pad_id=learner.tokenizer.pad_token_id,
        budget=training.tokens_per_batch,
        seed=pipeline.seed,
    )
    try:
        summary = loop.train(
            learner,
            paradigm,
            {},
            stream,
            schedule(training, stream.steps(training.epochs)),
            folder,
            validate=(lambda x: score(x, task, validation_rows)) if validation_rows else None,
            metric=pipeline.metric,
            report=lambda step, steps, values: progress.step(subject, step, steps, values),
        )
    except Unfit as error:
        raise ConfigError(f"{subject}: {error}") from error
    learner.save(folder / "learner")
    described = {**summary, **description(learner, examples, application, training)}
    (folder / "training.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    loop.forget_checkpoint(folder)


def schedule(training: Training, steps: int) -> Schedule:
    """The configuration as the loop takes it."""
    from tasks.learning.loop import Schedule

    stopping = training.early_stopping
    return Schedule(
        steps=steps,
        learning_rate=training.learning_rate,
        warmup=training.warmup,
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm,
        precision=training.precision,
        checkpoint_every=training.checkpoint_every,
        patience=stopping.patience if stopping else None,
    )


def description(
    learner: Learner, examples: Sequence[Example], application: AnyApplication, training: Training
) -> dict[str, Any]:
    """What was trained, on what, with what: the content of training.json."""
    import torch

    from tasks.learning.loop import precision

    return {
        "rows": len(examples),
        "tokens": sum(len(e["input_ids"]) for e in examples),
        "cut": sum(len(e["input_ids"]) >= application.maximum_tokens for e in examples),
        "parameters": sum(p.numel() for p in learner.parameters()),
        "device": str(next(learner.parameters()).device),
        "threads": torch.get_num_threads(),
        "precision": str(precision(training.precision)).removeprefix("torch."),
    }


def start(pipeline: Pipeline, origin: Origin) -> Learner:
    """The learner at its starting point; new heads follow from the pipeline's seed.

    Raises:
        ConfigError: texts may be longer than the backbone takes.
    """
    import torch

    from tasks.learning.learner import new_learner

    torch.manual_seed(pipeline.seed)
    learner = new_learner(origin.backbone, {pipeline.application.kind: pipeline.application})
    if origin.heads is not None:
        learner.load_heads(origin.heads)
    limit = learner.backbone.maximum_positions
    if limit is not None and pipeline.application.maximum_tokens > limit:
        raise ConfigError(
            f"application.maximum_tokens is {pipeline.application.maximum_tokens}, but the "
            f"backbone takes at most {limit}"
        )
    return learner
