"""Causal language modelling: L = -Σ log p(x_i | x_1 … x_{i-1}). Radford et al. 2018, eq. 1."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from tasks.learning.contracts import IGNORED, Batch
from tasks.learning.learner import Learner
from tasks.learning.objectives.base import Unlabelled, likelihood


class CausalLanguageModelling(Unlabelled):
    """Each token from those before it, the text's end included."""

    kind: ClassVar[Literal["encoder", "seq2seq", "causal"]] = "causal"

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        """() over all tokens but each text's first."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        states = learner.backbone.encode(ids, mask)
        labels = ids.masked_fill(mask == 0, IGNORED)[:, 1:]
        logits = learner.backbone.project(states[:, :-1])  # (B, S - 1, V)
        return likelihood(logits.flatten(0, 1), labels.flatten())
