"""How much a learner's predictions say of unlabelled text: I(y; x) = H(E p) − E H(p).

H entropy, E the mean over texts (or words). High where each prediction is sure and all of them
together are varied, at its most where every label is as frequent as any other: of tags, most of
which are O, it says little. Bridle, Heading and MacKay 1991; to choose models without labels:
Musgrave et al. 2022, "Three New Validators".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.learning.contracts import Batch, Example, Output
from tasks.learning.learner import Learner
from tasks.learning.prediction import evaluating, in_batches


def log_probabilities(output: Output, batch: Batch) -> Tensor:
    """(P, C) log p of a batch's P predictions: one a text, or one a word."""
    assert output.logits is not None
    logs = output.logits.float().log_softmax(-1)
    return logs[batch["words"] > 0] if logs.ndim == 3 else logs


def mutual_information(logs: Tensor) -> Tensor:
    """(P, C) log p -> () H(mean p) − mean H(p), in nats; 0 of no or one prediction."""
    if len(logs) == 0:
        return logs.sum()
    mean = logs.exp().mean(0).clamp_min(torch.finfo(logs.dtype).tiny)  # log 0 has no gradient
    return (logs.exp() * logs).sum(-1).mean() - (mean * mean.log()).sum()


def information(learner: Learner, task: str, examples: Sequence[Example]) -> float:
    """I(y; x) over these examples, as a share of the most it could be, log C."""
    found = []
    with evaluating(learner):
        for _, batch in in_batches(learner, examples):
            found.append(log_probabilities(learner(task, batch), batch).cpu())
        logs = torch.cat(found)
        return float(mutual_information(logs)) / math.log(logs.shape[-1])
