"""Prototypes: the mean representation of each label, and the linear head that goes by them.

−‖f − μ_c‖² = 2 μ_c·f − ‖μ_c‖² − ‖f‖², and ‖f‖² is the same for all labels: the nearest prototype is
the answer of a linear layer with weight 2 μ_c and bias −‖μ_c‖². Snell et al. 2017, section 2.4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.learning.batches import Stream, in_order, moved
from tasks.learning.contracts import IGNORED, Batch, Unfit
from tasks.learning.learner import Learner
from tasks.learning.prediction import TOKENS_PER_BATCH, evaluating

UNSEEN = -1e4
"""Bias of a label without a row."""


def labelled(learner: Learner, task: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """(P, H) representations and (P,) labels of a batch's P scored positions: texts, or words."""
    labels = batch["labels"].flatten()
    found = learner.represent(task, batch).float()
    scored = labels != IGNORED
    return found.reshape(-1, found.shape[-1])[scored], labels[scored]


def means(representations: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(P, H) and (P,) -> (C', H) the mean of each label that occurs, and (C',) those labels."""
    present, index = labels.unique(return_inverse=True)
    sums = representations.new_zeros(len(present), representations.shape[-1])
    sums = sums.index_add(0, index, representations)
    return sums / torch.bincount(index).unsqueeze(-1), present


def set_head(learner: Learner, stream: Stream) -> None:
    """Make the head of a stream's task answer with the nearest prototype of the stream's rows.

    A label without a row is never the answer.

    Raises:
        Unfit: the head is not one linear layer.
    """
    head = learner.heads[stream.task]
    if not isinstance(head, nn.Linear):
        raise Unfit(f"the head of '{stream.task}' is no linear layer, so it cannot hold prototypes")
    device = head.weight.device
    with evaluating(learner):
        found = [
            labelled(learner, stream.task, moved(batch, device))
            for _, batch in in_order(stream.examples, pad_id=stream.pad_id, budget=TOKENS_PER_BATCH)
        ]
        prototypes, present = means(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    with torch.no_grad():
        centre = prototypes.mean(0)  # taken off all alike: small logits, which bfloat16 can tell
        head.weight.zero_()
        head.bias.fill_(UNSEEN)
        head.weight[present] = 2 * (prototypes - centre)
        head.bias[present] = centre.square().sum() - prototypes.square().sum(-1)
