"""Predictions of a learner over rows, in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from tasks.learning.batches import in_order, moved
from tasks.learning.contracts import Prediction, Row
from tasks.learning.learner import Learner

TOKENS_PER_BATCH = 4096


@contextmanager
def evaluating(learner: Learner) -> Iterator[None]:
    """Dropout and gradients off inside."""
    was = learner.training
    learner.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        learner.train(was)


def predict(learner: Learner, task: str, rows: Sequence[Row]) -> list[Prediction]:
    """One prediction a row; rows need no labels."""
    application, tokenizer = learner.tasks[task], learner.tokenizer
    examples = application.encode(rows, tokenizer, supervised=False)
    predictions: list[Prediction] = [{} for _ in rows]
    device = next(learner.parameters()).device
    if not examples:
        return predictions
    with evaluating(learner):
        batches = in_order(examples, pad_id=tokenizer.pad_token_id, budget=TOKENS_PER_BATCH)
        for indices, batch in batches:
            there = moved(batch, device)
            found = application.predict(learner.backbone, learner.heads[task], there)
            for index, prediction in zip(indices, found, strict=True):
                predictions[index] = prediction
    return predictions


def score(learner: Learner, task: str, rows: Sequence[Row]) -> dict[str, float]:
    """The application's scores on labelled rows."""
    application = learner.tasks[task]
    totals = application.statistics(predict(learner, task, rows), rows).sum(0)
    return {name: float(value) for name, value in application.scores(totals).items()}
