"""From rows and a starting point to a trained learner in a folder; what source and transfer share.

learner/            see tasks/learning/learner.py
metrics.jsonl       {"step": 10, "loss": 0.61, "learning_rate": 4.1e-05, …}
training.json       steps, seconds, rows, tokens, trainable parameters, device, precision
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import progress
from tasks.config import Pipeline, Training
from tasks.errors import ConfigError, DataRejected
from tasks.learning.contracts import Example, Paradigm, Row, Unfit

if TYPE_CHECKING:
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
    rows: Mapping[str, Sequence[Row]],
    validation_rows: Mapping[str, Sequence[Row]],
    paradigm: Paradigm,
    training: Training,
    folder: Path,
    subject: str,
) -> None:
    """Train from `origin` and write the learner; resumes what `folder` holds.

    Args:
        pipeline: the applications, the metric and the seed.
        origin: where the learner starts.
        rows: task -> labelled rows.
        validation_rows: task -> rows that are scored after each epoch.
        paradigm: how the gradient comes about.
        training: epochs and rates.
        folder: see the top of this file.
        subject: what is trained, for people.

    Raises:
        ConfigError: the paradigm does not fit the backbone (too many layers to freeze), or early
            stopping has no validation rows to watch.
        DataRejected: there are no rows to train on.
    """
    from tasks.learning import loop
    from tasks.learning.batches import Mixture, Stream

    if not any(rows.values()):
        raise DataRejected(f"{subject}: no labelled rows to train on")
    if training.early_stopping and not any(validation_rows.values()):
        raise ConfigError(
            f"{subject}: early_stopping has no validation rows to watch; raise split.validation"
        )
    learner = start(pipeline, origin)
    learner.backbone.set_dropout(training.dropout)
    examples = {
        task: pipeline.tasks[task].encode(labelled, learner.tokenizer)
        for task, labelled in rows.items()
        if labelled
    }
    padding, budget = learner.tokenizer.pad_token_id, training.tokens_per_batch
    streams = [
        Stream(task, encoded, pad_id=padding, budget=budget, seed=pipeline.seed)
        for task, encoded in examples.items()
    ]
    stream = streams[0] if len(streams) == 1 else Mixture(streams, seed=pipeline.seed)
    try:
        summary = loop.train(
            learner,
            paradigm,
            {},
            stream,
            schedule(training, stream.steps(training.epochs)),
            folder,
            validate=validator(pipeline, validation_rows),
            metric=pipeline.metric,
            report=lambda step, steps, values: progress.step(subject, step, steps, values),
        )
    except Unfit as error:
        raise ConfigError(f"{subject}: {error}") from error
    learner.save(folder / "learner")
    described = {**summary, **description(pipeline, learner, examples, training)}
    (folder / "training.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    loop.forget_checkpoint(folder)


def validator(
    pipeline: Pipeline, rows: Mapping[str, Sequence[Row]]
) -> Callable[[Learner], dict[str, float]] | None:
    """A function that scores a learner on validation rows; None where there are none.

    Of several tasks it gives each one's scores, and the mean of those that decide as the
    pipeline's metric, which early stopping watches.
    """
    from tasks.learning.prediction import score

    tasks = [task for task, found in rows.items() if found]
    if not tasks:
        return None

    def validate(learner: Learner) -> dict[str, float]:
        scores = {task: score(learner, task, rows[task]) for task in tasks}
        if tasks == [pipeline.application.kind]:
            return scores[tasks[0]]
        deciding = [found[pipeline.tasks[task].metric] for task, found in scores.items()]
        return {
            pipeline.metric: sum(deciding) / len(deciding),
            **{f"{task}_{name}": x for task, found in scores.items() for name, x in found.items()},
        }

    return validate


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
    pipeline: Pipeline,
    learner: Learner,
    examples: Mapping[str, Sequence[Example]],
    training: Training,
) -> dict[str, Any]:
    """What was trained, on what, with what: the content of training.json."""
    import torch

    from tasks.learning.loop import precision

    lengths = [
        (len(example["input_ids"]), pipeline.tasks[task].maximum_tokens)
        for task, encoded in examples.items()
        for example in encoded
    ]
    return {
        "rows": len(lengths),
        "tokens": sum(length for length, _ in lengths),
        "cut": sum(length >= limit for length, limit in lengths),
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
    learner = new_learner(origin.backbone, pipeline.tasks)
    if origin.heads is not None:
        learner.load_heads(origin.heads)
    limit = learner.backbone.maximum_positions
    for application in pipeline.tasks.values():
        if limit is not None and application.maximum_tokens > limit:
            raise ConfigError(
                f"application.maximum_tokens is {application.maximum_tokens}, but the backbone "
                f"takes at most {limit}"
            )
    return learner
