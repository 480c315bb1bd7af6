"""From rows and a starting point to a trained learner in a folder; what source and transfer share.

learner/            see tasks/learning/learner.py
metrics.jsonl       {"step": 10, "loss": 0.61, "learning_rate": 4.1e-05, …}
training.json       steps, seconds, rows, tokens, trainable parameters, device, precision
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import features, progress
from tasks.config import Pipeline, Training
from tasks.errors import ConfigError, DataRejected
from tasks.learning.contracts import Example, Paradigm, Row, Unfit

if TYPE_CHECKING:
    from tasks.learning.batches import Stream
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


@dataclass(frozen=True)
class Rows:
    """What a training stage reads: labelled rows by task."""

    train: Mapping[str, Sequence[Row]]
    """What is learned."""
    validation: Mapping[str, Sequence[Row]]
    """What is scored after each epoch."""
    sources: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """By domain: what paradigms that read sources learn from as well."""
    text: Sequence[Row] = ()
    """The target's text, for paradigms that read it."""


def fit(
    pipeline: Pipeline,
    origin: Origin,
    rows: Rows,
    paradigm: Paradigm,
    training: Training,
    folder: Path,
    subject: str,
) -> None:
    """Train from `origin` and write the learner; resumes what `folder` holds.

    Args:
        pipeline: the applications, the metric and the seed.
        origin: where the learner starts.
        rows: what it learns from.
        paradigm: how the gradient comes about.
        training: epochs and rates.
        folder: see the top of this file.
        subject: what is trained, for people.

    Raises:
        ConfigError: the paradigm does not fit the backbone (too many layers to freeze), or early
            stopping has no validation rows to watch.
        DataRejected: there are no rows to train on.
    """
    from accelerate import Accelerator

    from tasks.learning import loop
    from tasks.learning.batches import Stream, Streams, in_proportion

    if not any([*rows.train.values(), *rows.sources.values()]):
        raise DataRejected(f"{subject}: no labelled rows to train on")
    if paradigm.reads_sources and not any(rows.sources.values()):
        raise DataRejected(f"{subject}: {paradigm.kind} needs a source with labelled rows")
    if paradigm.reads_text and not rows.text:
        raise DataRejected(f"{subject}: no text of the target to adapt to")
    if training.early_stopping and not any(rows.validation.values()):
        raise ConfigError(
            f"{subject}: early_stopping has no validation rows to watch; raise split.validation"
        )
    learner = start(pipeline, origin)
    learner.backbone.set_dropout(training.dropout)
    if paradigm.frozen_backbone:
        learner.to(Accelerator().device)  # where its features are computed

    def encoded(task: str, found: Sequence[Row], *, supervised: bool = True) -> list[Example]:
        examples = pipeline.tasks[task].encode(found, learner.tokenizer, supervised=supervised)
        if paradigm.frozen_backbone:
            return features.attached(learner, task, examples, origin.digest, subject)
        return examples

    def stream(task: str, found: Sequence[Row], *, supervised: bool = True) -> Stream:
        application = pipeline.tasks[task]
        return Stream(
            task,
            encoded(task, found, supervised=supervised),
            pad_id=learner.tokenizer.pad_token_id,
            budget=training.tokens_per_batch,
            seed=pipeline.seed,
            classes=[
                application.classes(row) & set(application.labels) for row in found if supervised
            ],
        )

    targets = [stream(task, found) for task, found in rows.train.items() if found]
    sources = {n: stream(pipeline.task(n), found) for n, found in rows.sources.items() if found}
    target = in_proportion(targets, pipeline.seed) if targets else None
    kind = pipeline.application.kind
    text = stream(kind, rows.text, supervised=False) if paradigm.reads_text else None
    streams = Streams(target, pipeline.target_name, sources, text)
    plan = paradigm.plan(streams)
    watched = {
        task: (encoded(task, found, supervised=False), found)
        for task, found in rows.validation.items()
        if found
    }
    try:
        paradigm.initialise(learner, streams)
        summary = loop.train(
            learner,
            paradigm,
            plan,
            schedule(training, plan.steps(training.epochs)),
            folder,
            validate=validator(pipeline, watched) if watched else None,
            metric=pipeline.metric,
            report=lambda step, steps, values: progress.step(subject, step, steps, values),
        )
    except Unfit as error:
        raise ConfigError(f"{subject}: {error}") from error
    learner.save(folder / "learner")
    described = {
        **summary,
        **description(pipeline, learner, [*targets, *sources.values()], training),
    }
    (folder / "training.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    loop.forget_checkpoint(folder)


def validator(
    pipeline: Pipeline, watched: Mapping[str, tuple[Sequence[Example], Sequence[Row]]]
) -> Callable[[Learner], dict[str, float]]:
    """A function that scores a learner on validation rows: task -> encoded, and as they are.

    Of several tasks it gives each one's scores, and the mean of those that decide as the
    pipeline's metric, which early stopping watches.
    """
    from tasks.learning.prediction import score_examples

    def validate(learner: Learner) -> dict[str, float]:
        scores = {
            task: score_examples(learner, task, examples, rows)
            for task, (examples, rows) in watched.items()
        }
        if list(scores) == [pipeline.application.kind]:
            return scores[pipeline.application.kind]
        deciding = [
            found[pipeline.metric if pipeline.metric in found else pipeline.tasks[task].metric]
            for task, found in scores.items()
        ]
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
    streams: Sequence[Stream],
    training: Training,
) -> dict[str, Any]:
    """What was trained, on what, with what: the content of training.json."""
    import torch

    from tasks.learning.loop import precision

    lengths = [
        (len(example["input_ids"]), pipeline.tasks[stream.task].maximum_tokens)
        for stream in streams
        for example in stream.examples
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
    if not learner.tokenizer.is_fast:
        raise ConfigError(f"{origin.backbone}: its tokenizer has no fast version (tokenizer.json)")
    limit = learner.backbone.maximum_positions
    for application in pipeline.tasks.values():
        if limit is not None and application.maximum_tokens > limit:
            raise ConfigError(
                f"application.maximum_tokens is {application.maximum_tokens}, but the backbone "
                f"takes at most {limit}"
            )
    return learner
