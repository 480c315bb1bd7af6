"""What the objectives share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from tasks.learning.contracts import IGNORED, Batch, Draw, Example, Unfit
from tasks.learning.learner import Learner


class Unlabelled:
    """Fills `.grad` from text, so that the one loop trains by it."""

    kind: ClassVar[Literal["encoder", "seq2seq", "causal"]]
    """The networks that learn by it."""

    def prepare(self, learner: Learner) -> None:
        """No head learns; refuse a network that the objective is not for."""
        backbone = learner.backbone
        if backbone.kind != self.kind:
            raise Unfit(f"it is for {self.kind} networks, and this one is {backbone.kind}")
        if self.kind != "encoder" and not (
            backbone.writes_as_trained and backbone.reads_and_writes()
        ):
            raise Unfit(f"this network of type {backbone.network.config.model_type} does not write")
        learner.backbone.writes = self.kind != "encoder"
        learner.heads.requires_grad_(False)

    def parameter_groups(self, learner: Learner, learning_rate: float) -> list[dict[str, Any]]:
        """Everything at one rate."""
        trained = [p for p in learner.parameters() if p.requires_grad]
        return [{"params": trained, "lr": learning_rate}]

    def advance(self, learner: Learner, progress: float) -> None:
        """Nothing changes over time."""

    def gradients(
        self, learner: Learner, draw: Draw, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """∇ of the loss."""
        loss = self.loss(learner, draw["target"][1])
        backward(loss)
        return {"loss": float(loss.detach())}

    @abstractmethod
    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        """() nats a token that is to be guessed, of a batch without labels."""


def encoded(texts: Sequence[str], learner: Learner, longest: int, *, ended: bool) -> list[Example]:
    """Texts as they are, cut to so many tokens; `ended`: with the token that ends a text, where the
    tokenizer has one."""
    tokenizer = learner.tokenizer
    found = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    end = tokenizer.eos_token_id
    if not ended or end is None:
        return [Example(input_ids=ids) for ids in found]
    whole = (ids if ids[-1:] == [end] else [*ids[: longest - 1], end] for ids in found)
    return [Example(input_ids=ids) for ids in whole]


def likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, V), (N,) -> () −log p of the labels, a mean over those that are not IGNORED; 0 if none
    is left."""
    total = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)
