"""What is scored at the end of each epoch, and watched by early stopping.

labels   the application's scores on validation rows
text     information: how much the predictions say of the target's text, without any label
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.config import Pipeline
from tasks.learning.contracts import Example, Row

if TYPE_CHECKING:
    from tasks.learning.learner import Learner

INFORMATION = "information"
"""The name of the score without labels."""


def validator(
    pipeline: Pipeline,
    labelled: Mapping[str, tuple[Sequence[Example], Sequence[Row]]],
    text: Sequence[Example],
) -> Callable[[Learner], dict[str, float]]:
    """A function that scores a learner.

    Args:
        pipeline: whose metric decides.
        labelled: task -> validation rows, encoded and as they are.
        text: the target's, encoded; empty: it is not scored.
    """
    from tasks.learning.information import information

    def validate(learner: Learner) -> dict[str, float]:
        scores = by_labels(pipeline, labelled, learner) if labelled else {}
        if text:
            scores[INFORMATION] = information(learner, pipeline.application.kind, text)
        return scores

    return validate


def by_labels(
    pipeline: Pipeline,
    labelled: Mapping[str, tuple[Sequence[Example], Sequence[Row]]],
    learner: Learner,
) -> dict[str, float]:
    """The scores on validation rows.

    Of several tasks each one's scores, and the mean of those that decide as the pipeline's metric.
    """
    from tasks.learning.prediction import score_examples

    scores = {
        task: score_examples(learner, task, examples, rows)
        for task, (examples, rows) in labelled.items()
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
