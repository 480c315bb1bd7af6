"""Predictions of a learner over rows, in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from tasks.learning.batches import in_order, moved
from tasks.learning.contracts import Batch, Example, Prediction, Row
from tasks.learning.learner import Learner

TOKENS_PER_BATCH = 4096
"""Padded ones, that are read at once."""
WRITTEN_PER_BATCH = 16_384
"""Read and written at once, by all beams: SmolLM2-135M keeps 50 kB of keys and values of each."""


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


def in_batches(
    learner: Learner, examples: Sequence[Example], beside: int = 0
) -> Iterator[tuple[list[int], Batch]]:
    """All examples once, on the learner's device, with their indices; `beside` as `in_order`."""
    device = next(learner.parameters()).device
    pad_id = learner.tokenizer.pad_token_id
    budget = WRITTEN_PER_BATCH if beside else TOKENS_PER_BATCH
    for indices, batch in in_order(examples, pad_id=pad_id, budget=budget, beside=beside):
        yield indices, moved(batch, device)


def predict(
    learner: Learner, task: str, rows: Sequence[Row], *, supervised: bool = False
) -> list[Prediction]:
    """One prediction a row. Labels are not needed; of `supervised` rows a prediction may also say
    how probable they were. They are not read for it, but where words are drawn by chance, their
    lengths decide in which order."""
    examples = learner.tasks[task].encode(rows, learner.tokenizer, supervised=supervised)
    return predict_examples(learner, task, examples)


def predict_examples(learner: Learner, task: str, examples: Sequence[Example]) -> list[Prediction]:
    """One prediction an example, in their order."""
    predictions: list[Prediction] = [{} for _ in examples]
    if not examples:
        return predictions
    application = learner.tasks[task]
    with evaluating(learner):
        for indices, batch in in_batches(learner, examples, application.beside):
            found = application.predict(learner, task, batch)
            for index, prediction in zip(indices, found, strict=True):
                predictions[index] = prediction
    return predictions


def score_examples(
    learner: Learner, task: str, examples: Sequence[Example], rows: Sequence[Row]
) -> dict[str, float]:
    """The application's scores on labelled rows, given as they are and encoded."""
    application = learner.tasks[task]
    totals = application.statistics(predict_examples(learner, task, examples), rows).sum(0)
    return {name: float(value) for name, value in application.scores(totals).items()}


def represent(
    learner: Learner, task: str, examples: Sequence[Example]
) -> Iterator[tuple[int, np.ndarray]]:
    """Each example's place, and what its head would read of it, float32 without padding."""
    with evaluating(learner):
        for indices, batch in in_batches(learner, examples):
            application = learner.tasks[task]
            found = application.represent(learner.backbone, batch).float().cpu().numpy()
            for index, array in zip(indices, found, strict=True):
                states = application.states(examples[index])
                yield index, array[:states] if states else array


def pooled(learner: Learner, task: str, rows: Sequence[Row]) -> np.ndarray:
    """(N, H) each row's features, the mean over its tokens."""
    examples = learner.tasks[task].encode(rows, learner.tokenizer, supervised=False)
    found = np.zeros((len(examples), learner.backbone.width), dtype=np.float32)
    with evaluating(learner):
        for indices, batch in in_batches(learner, examples):
            found[indices] = learner(task, batch).features.float().cpu().numpy()
    return found
