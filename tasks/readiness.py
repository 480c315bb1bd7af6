"""The stage before any training: what only the split rows and the backbone can tell is refused.

ready.json    the backbone's layers, the longest input it takes, and the share of each domain's
              tokens that it does not know: {"layers": 6, "longest": 512, "unknown": {"movies": 0}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import source, store, training
from tasks.config import Pipeline
from tasks.errors import ConfigError, DataRejected
from tasks.learning.contracts import Example, Unfit
from tasks.stage import Stage
from tasks.training import Origin

if TYPE_CHECKING:
    from tasks.learning.learner import Learner

SAMPLE = 1000
"""Rows of each domain in which unknown tokens are counted."""


def stage(pipeline: Pipeline, backbone: Origin, split: store.Output) -> Stage:
    """Go through every training of the pipeline without training anything."""
    report = "report.json"

    def compute(folder: Path) -> None:
        rows(pipeline, split.read_json(report)["domains"])
        episodes(pipeline, split)
        learner = learners(pipeline, backbone)
        ready = {
            "layers": len(learner.backbone.layers()),
            "longest": learner.backbone.maximum_positions,
            "unknown": unknown(pipeline, learner, split),
        }
        (folder / "ready.json").write_text(json.dumps(ready), encoding="utf-8")

    return Stage(
        "ready",
        pipeline.paradigm.kind,
        {
            "pipeline": pipeline.model_dump(
                mode="json",
                include={
                    "paradigm": True,
                    "source_training": {"freeze", "early_stopping"},
                    "training": {"early_stopping"},
                    "validation": {"unknown_over"},
                },
            ),
            "tasks": {n: a.model_dump(mode="json") for n, a in pipeline.tasks.items()},
            "domains": list(pipeline.domains),
            "seed": pipeline.seed,
        },
        {"backbone": backbone.digest, "rows": split.digest()},
        compute,
    )


def rows(pipeline: Pipeline, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse a training that has no rows to learn from, or none to watch for early stopping.

    Args:
        pipeline: its trainings.
        counts: domain -> train, validation, test and unlabelled -> how many rows it has.

    Raises:
        DataRejected: rows are missing.
        ConfigError: there are rows, and none is kept to watch.
    """
    sources = {name: counts[name] for name in pipeline.sources}
    own = counts[pipeline.target_name]
    listed = ", ".join(sources)
    if not any(found["train"] for found in sources.values()):
        if pipeline.source_training:
            raise DataRejected(
                f"{listed}: no labelled rows for source_training; raise `labelled`, or set "
                "source_training to null"
            )
        if pipeline.paradigm.reads_sources:
            raise DataRejected(
                f"{listed}: {pipeline.paradigm.kind} needs a source with labelled rows; raise "
                "`labelled`"
            )
    if pipeline.paradigm.reads_text:
        texts = {
            listed: sum(found["train"] + found["unlabelled"] for found in sources.values()),
            pipeline.target_name: own["train"] + own["unlabelled"],
        }
        for name, count in texts.items():
            if count < 2:
                raise DataRejected(f"{name}: two texts are needed to adapt with; add more")
    source_stopping = pipeline.source_training and pipeline.source_training.early_stopping
    if source_stopping and not any(found["validation"] for found in sources.values()):
        raise ConfigError(
            f"{listed}: source_training.early_stopping has no validation rows to watch; raise "
            "split.validation"
        )
    stopping = pipeline.training.early_stopping
    if stopping and stopping.watch == "labels" and not own["validation"]:
        raise ConfigError(
            f"{pipeline.target_name}: early_stopping has no validation rows to watch; raise "
            "split.validation"
        )
    if stopping and stopping.watch == "text" and not own["unlabelled"]:
        raise DataRejected(
            f"{pipeline.target_name}: there is no unlabelled text for early_stopping to watch; "
            "lower `labelled`, or watch labels"
        )


def episodes(pipeline: Pipeline, split: store.Output) -> None:
    """Draw those of a paradigm that learns from the sources alone: their labels are enough for it.

    Raises:
        ConfigError: a source has not rows enough for one.
    """
    from tasks.learning.batches import Stream, Streams
    from tasks.learning.episodes import classes_of

    if pipeline.paradigm.reads_target:
        return

    def stream(name: str) -> Stream:
        found = training.read_rows(split.file(f"{name}/train.parquet"))
        classes = [classes_of(pipeline.application_of(name), row) for row in found]
        untold: list[Example] = [{"input_ids": [0]}] * len(found)
        return Stream(
            pipeline.task(name), untold, pad_id=0, budget=1, seed=pipeline.seed, classes=classes
        )

    streams = {name: stream(name) for name in pipeline.sources}
    try:
        pipeline.paradigm.plan(
            Streams(None, sources={n: s for n, s in streams.items() if s.examples})
        )
    except Unfit as error:
        raise ConfigError(f"paradigm: {error}") from error


def unknown(pipeline: Pipeline, learner: Learner, split: store.Output) -> dict[str, float]:
    """Domain -> the share of unknown tokens in all free text of its first 1,000 training rows, and
    of as many unlabelled ones.

    Raises:
        DataRejected: it is above what the pipeline allows.
    """
    tokenizer, shares = learner.tokenizer, {}
    for name in pipeline.domains:
        fields = pipeline.application_of(name).fields
        free = [field for field, rule in fields.items() if not (rule.values or rule.tags)]
        parts = (split.file(f"{name}/{part}.parquet") for part in ("train", "unlabelled"))
        rows = [row for part in parts for row in training.read_rows(part)[:SAMPLE]]
        texts = [row[field] for row in rows for field in free if row[field]]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        tokens = [token for text in ids for token in text]
        shares[name] = tokens.count(tokenizer.unk_token_id) / max(1, len(tokens))
        if shares[name] > pipeline.validation.unknown_over:
            raise DataRejected(
                f"{name}: the backbone's vocabulary does not know {shares[name]:.0%} of its tokens "
                f"(allowed {pipeline.validation.unknown_over:.0%}); take a backbone that knows the "
                "script, or make one with backbone.new"
            )
    return shares


def learners(pipeline: Pipeline, backbone: Origin) -> Learner:
    """Prepare every coming training's learner once; what it starts from is returned.

    Raises:
        ConfigError: a paradigm does not go with the backbone (too many layers to freeze), or the
            backbone not with the texts.
    """
    start = training.start(pipeline, backbone)
    last = pipeline.paradigm.adaptation or pipeline.paradigm
    of = {"paradigm": [pipeline.paradigm, last, pipeline.paradigm.alone], "source_training": []}
    if pipeline.source_training:
        of["source_training"] = [source.paradigm(pipeline.source_training)]
    for place, paradigms in of.items():
        for paradigm in paradigms:
            try:
                paradigm.prepare(deepcopy(start))
            except Unfit as error:
                raise ConfigError(f"{place}: {error}") from error
    return start
