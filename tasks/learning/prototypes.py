"""Prototypes: the mean representation of each label, and the linear head that goes by them.

−‖f − μ_c‖² = 2 μ_c·f − ‖μ_c‖² − ‖f‖², and ‖f‖² is the same for all labels: the nearest prototype is
the answer of a linear layer with weight 2 μ_c and bias −‖μ_c‖². Snell et al. 2017, section 2.4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.learning.batches import Stream
from tasks.learning.contracts import IGNORED, Batch, Unfit
from tasks.learning.learner import Learner
from tasks.learning.prediction import evaluating, in_batches

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


def prototype_loss(learner: Learner, task: str, support: Batch, query: Batch) -> Tensor:
    """() the mean −log p of the query's labels, as far as the support has them."""
    prototypes, present = means(*labelled(learner, task, support))
    found, labels = labelled(learner, task, query)
    known = torch.isin(labels, present)
    distances = torch.cdist(found[known], prototypes).square()
    return functional.cross_entropy(-distances, torch.searchsorted(present, labels[known]))


def set_head(learner: Learner, stream: Stream) -> None:
    """Make the head of a stream's task answer with the nearest prototype of the stream's rows.

    A label without a row is never the answer.

    Raises:
        Unfit: the head is not one linear layer.
    """
    head = learner.heads[stream.task]
    if not isinstance(head, nn.Linear):
        raise Unfit(f"the head of '{stream.task}' is no linear layer, so it cannot hold prototypes")
    with evaluating(learner):
        found = [
            labelled(learner, stream.task, batch)
            for _, batch in in_batches(learner, stream.examples)
        ]
        prototypes, present = means(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    with torch.no_grad():
        centre = prototypes.mean(0)  # taken off all alike: small logits, which bfloat16 can tell
        head.weight.zero_()
        head.bias.fill_(UNSEEN)
        head.weight[present] = 2 * (prototypes - centre)
        head.bias[present] = centre.square().sum() - prototypes.square().sum(-1)
