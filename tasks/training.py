"""From rows and a starting point to a trained learner in a folder; what source and transfer share.

learner/            see tasks/learning/learner.py
metrics.jsonl       {"step": 10, "loss": 0.61, "learning_rate": 4.1e-05, …}
training.json       steps, seconds, rows, tokens, trainable parameters, device, processes,
                    threads of each, precision
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from tasks import progress
from tasks.config import Pipeline, Training
from tasks.errors import ConfigError
from tasks.learning.contracts import Paradigm, Row, Unfit
from tasks.processes import first, together
from tasks.streams import Encoder
from tasks.validators import INFORMATION, validator

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
    """Of the sources' tasks, and of the target's where a source has it; None: none is trained."""

    @classmethod
    def of(cls, output: Any, *, heads: bool = True) -> Origin:
        """The learner that an earlier stage wrote; pretraining leaves heads untrained."""
        folder = output.file("learner")
        kept = "learner/" if heads else "learner/backbone/"
        return cls(folder / "backbone", output.digest(kept), folder if heads else None)


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
    watched: Sequence[Row] = ()
    """The target's unlabelled rows, where early stopping watches them."""


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
        ConfigError: the paradigm does not fit the backbone (too many layers to freeze).
        WorkerError: of several processes one was lost.
    """
    arguments = (pipeline, origin, rows, paradigm, training, folder, subject)
    together(training.processes, _fit, *arguments)


def _fit(
    pipeline: Pipeline,
    origin: Origin,
    rows: Rows,
    paradigm: Paradigm,
    training: Training,
    folder: Path,
    subject: str,
) -> None:
    """What each process of `fit` does."""
    from accelerate import Accelerator

    from tasks.learning import checkpoint, loop
    from tasks.learning.batches import Streams, in_proportion

    learner = start(pipeline, origin)
    engine = Accelerator(mixed_precision="no")  # as the loop's will be
    learner.to(engine.device)  # what follows from the rows is computed there
    learner.backbone.set_dropout(training.dropout)
    frozen = learner.backbone.digest() if paradigm.frozen_backbone else None
    encoder = Encoder(pipeline, learner, training.tokens_per_batch, frozen, subject)
    kind = pipeline.application.kind
    targets = [encoder.stream(task, found) for task, found in rows.train.items() if found]
    streams = Streams(
        in_proportion(targets, pipeline.seed) if targets else None,
        pipeline.target_name,
        {n: encoder.stream(pipeline.task(n), found) for n, found in rows.sources.items() if found},
        encoder.stream(kind, rows.text, supervised=False) if paradigm.reads_text else None,
    )
    labelled = {
        task: (encoder.examples(task, found), found)
        for task, found in rows.validation.items()
        if found
    }
    text = encoder.examples(kind, rows.watched, supervised=False)
    try:
        plan = paradigm.plan(streams)
        paradigm.initialise(learner, streams)
        summary = loop.train(
            learner,
            paradigm,
            plan,
            schedule(training, plan.steps(training.epochs)),
            folder,
            validate=validator(pipeline, labelled, text) if labelled or text else None,
            metric=INFORMATION if text else pipeline.metric,
            report=lambda step, steps, values: progress.step(subject, step, steps, values),
        )
    except Unfit as error:
        raise ConfigError(f"{subject}: {error}") from error
    if not first():
        return
    learner.save(folder / "learner")
    learned = [*targets, *streams.sources.values()]
    described = {**summary, **description(learner, learned, training)}
    (folder / "training.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    checkpoint.forget(folder)


LOADING_FAILS = (
    *(AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    SafetensorError,
)
"""What transformers raises for a folder that holds no model it knows, or a damaged one."""


def training_key(training: Training, unused: Collection[str] = ()) -> dict[str, Any]:
    """What of these settings the weights follow from; checkpoints change none."""
    return training.model_dump(mode="json", exclude={"checkpoint_every", *unused})


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


def description(learner: Learner, streams: Sequence[Stream], training: Training) -> dict[str, Any]:
    """What was trained, on what, with what: the content of training.json."""
    import torch

    from tasks.learning.loop import precision

    learned = [example for stream in streams for example in stream.examples]
    return {
        "rows": len(learned),
        "tokens": sum(len(example["input_ids"]) for example in learned),
        "cut": sum("cut" in example for example in learned),
        "parameters": sum(p.numel() for p in learner.parameters()),
        "device": str(next(learner.parameters()).device),
        "processes": training.processes,
        "threads": torch.get_num_threads(),
        "precision": str(precision(training.precision)).removeprefix("torch."),
    }


def start(pipeline: Pipeline, origin: Origin) -> Learner:
    """The learner at its starting point; new heads follow from the pipeline's seed.

    Raises:
        UnsafeBackbone: see `check_safe`.
        ConfigError: it cannot be loaded, or does not go with an application.
    """
    import torch

    from tasks.learning.learner import new_learner
    from tasks.learning.safety import UnsafeBackbone

    torch.manual_seed(pipeline.seed)
    try:
        learner = new_learner(origin.backbone, pipeline.tasks)
    except UnsafeBackbone:
        raise
    except LOADING_FAILS as error:
        first = str(error).strip().partition("\n")[0][:200]
        raise ConfigError(f"{origin.backbone}: transformers cannot load it ({first})") from error
    if origin.heads is not None:
        learner.load_heads(origin.heads)
        if not pipeline.sources_share_task:
            for name in reversed(pipeline.sources):  # the first one's word is the last
                learner.inherit(pipeline.application.kind, pipeline.task(name))
    if not learner.tokenizer.is_fast:
        raise ConfigError(f"{origin.backbone}: its tokenizer has no fast version (tokenizer.json)")
    if learner.tokenizer.pad_token_id is None:
        raise ConfigError(f"{origin.backbone}: its tokenizer has no padding token")
    for task, application in pipeline.tasks.items():
        for complaint in application.complaints(learner.backbone, learner.tokenizer):
            where = f"sources.{task}." if task in pipeline.sources else ""
            raise ConfigError(f"{where}{complaint}")
    return learner
