"""Masked language modelling on unlabelled text: L = -Σ log p(x_i | x with a share masked).

Devlin et al. 2019, section 3.1: of the chosen tokens 80% become [MASK], 10% a random token and
10% stay. Continued on in-domain text: Gururangan et al. 2020, "Don't Stop Pretraining".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.learning.contracts import IGNORED, Batch, Unfit
from tasks.learning.learner import Learner
from tasks.learning.objectives.base import Unlabelled, likelihood


def mask_tokens(
    ids: Tensor, maskable: Tensor, mask_id: int, vocabulary: int, share: float
) -> tuple[Tensor, Tensor]:
    """(B, S) ids -> masked ids and labels; from torch's generator.

    ids    [101, 2307, 3185, 102]
    masked [101,  103, 3185, 102]
    labels [-100, 2307, -100, -100]
    """
    chosen = (torch.rand(ids.shape, device=ids.device) < share) & maskable
    labels = ids.masked_fill(~chosen, IGNORED)
    fate = torch.rand(ids.shape, device=ids.device)
    masked = ids.masked_fill(chosen & (fate < 0.8), mask_id)
    noise = torch.randint(vocabulary, ids.shape, device=ids.device)
    return torch.where(chosen & (fate >= 0.9), noise, masked), labels


@dataclass(frozen=True)
class MaskedLanguageModelling(Unlabelled):
    """Masked tokens from all the others."""

    kind: ClassVar[Literal["encoder", "seq2seq", "causal"]] = "encoder"

    share: float
    """Of the tokens that are to be guessed."""

    def prepare(self, learner: Learner) -> None:
        """Add a projection to the vocabulary, tied to the input embeddings; dropped afterwards."""
        super().prepare(learner)
        if learner.tokenizer.mask_token_id is None:
            raise Unfit("the backbone has no mask token")
        embeddings = learner.backbone.model.get_input_embeddings()
        if embeddings.embedding_dim != learner.backbone.width:
            raise Unfit("this backbone's embeddings are narrower than its states")
        learner.extras["vocabulary"] = Vocabulary(embeddings, learner.backbone.width)

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        """() over the masked positions."""
        tokenizer = learner.tokenizer
        special = torch.tensor(tokenizer.all_special_ids, device=batch["input_ids"].device)
        maskable = ~torch.isin(batch["input_ids"], special)
        ids, labels = mask_tokens(
            batch["input_ids"], maskable, tokenizer.mask_token_id, len(tokenizer), self.share
        )
        states = learner.backbone.encode(ids, batch["attention_mask"])
        scored = labels != IGNORED
        return likelihood(learner.extras["vocabulary"](states[scored]), labels[scored])


class Vocabulary(nn.Module):
    """Transform, norm, and the transposed input embeddings."""

    def __init__(self, embeddings: nn.Embedding, width: int) -> None:
        """`embeddings` is shared with the backbone, not copied."""
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))
        self.embeddings = [embeddings]  # in a list, so that it is not registered twice

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) -> (N, V)"""
        return functional.linear(self.transform(states), self.embeddings[0].weight, self.bias)
