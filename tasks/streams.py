"""From rows to the streams of batches that a paradigm draws from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks import features
from tasks.config import Pipeline
from tasks.learning.contracts import Example, Row

if TYPE_CHECKING:
    from tasks.learning.batches import Stream
    from tasks.learning.learner import Learner


@dataclass(frozen=True)
class Encoder:
    """How one training's rows are tokenized and cut into batches."""

    pipeline: Pipeline
    """Its tasks and its seed."""
    learner: Learner
    """Its tokenizer, and the backbone where features are kept."""
    budget: int
    """Padded tokens a batch."""
    backbone: str | None
    """Digest of a backbone that stays as it is, so that its features are computed once; None: it
    is trained."""
    subject: str
    """What is trained, for people."""

    def examples(self, task: str, rows: Sequence[Row], *, supervised: bool = True) -> list[Example]:
        """Tokenized rows of a task, with their features where the backbone stays as it is."""
        application = self.pipeline.tasks[task]
        found = application.encode(rows, self.learner.tokenizer, supervised=supervised)
        if self.backbone is None or not found:
            return found
        return features.attached(self.learner, task, found, self.backbone, self.subject)

    def stream(self, task: str, rows: Sequence[Row], *, supervised: bool = True) -> Stream:
        """Batches of these rows; unsupervised ones have no labels, whatever the rows have."""
        from tasks.learning.batches import Stream
        from tasks.learning.episodes import classes_of

        application = self.pipeline.tasks[task]
        return Stream(
            task,
            self.examples(task, rows, supervised=supervised),
            pad_id=self.learner.tokenizer.pad_token_id,
            budget=self.budget,
            seed=self.pipeline.seed,
            classes=[classes_of(application, row) for row in rows] if supervised else (),
        )
