"""What paradigms that move the backbone share: how much of it moves.

- layers frozen: Yosinski et al. 2014, "How transferable are features in deep neural networks?"
- LoRA, W + (α/r) B A with W frozen: Hu et al. 2021
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from tasks.learning.contracts import Config, Unfit
from tasks.learning.paradigms.supervised import Supervised

if TYPE_CHECKING:
    from tasks.learning.learner import Learner


class Lora(Config):
    """Train low-rank updates of the linear layers instead of their weights."""

    rank: Annotated[int, Field(gt=0)] = 8
    """r, the rank of the update."""
    alpha: Annotated[int, Field(gt=0)] = 16
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the update's input."""


class Tuning(Supervised):
    """Move the backbone, whole or in part."""

    freeze: Annotated[int, Field(ge=0)] = 0
    """So many lower layers stay as they are, with the embeddings and whatever else is of no one
    layer; 0: none."""
    lora: Lora | None = None
    """Train low-rank adapters; null: train the weights themselves."""

    @model_validator(mode="after")
    def lora_freezes_all(self) -> Self:
        """LoRA keeps every layer frozen, so `freeze` has nothing to act on."""
        if self.lora and self.freeze:
            raise ValueError("lora keeps every layer as it is already; remove freeze, or lora")
        return self

    @property
    def moves_backbone(self) -> bool:
        """Whether it would do nothing with the whole backbone frozen."""
        return False

    def prepare(self, learner: Learner) -> None:
        """Freeze the lower layers, or put adapters in.

        Raises:
            Unfit: more layers are to be frozen than there are, or all where one must move.
        """
        backbone = learner.backbone
        layers = backbone.layers()
        if self.freeze > len(layers):
            raise Unfit(f"freeze is {self.freeze}, but the backbone has {len(layers)} layers")
        if self.moves_backbone and self.freeze == len(layers):
            raise Unfit(
                f"freeze is {self.freeze} of {len(layers)} layers, which leaves nothing of the "
                "backbone for this paradigm to move; lower it"
            )
        if self.lora:
            backbone.add_lora(self.lora.rank, self.lora.alpha, self.lora.dropout)
        elif self.freeze:
            for parameter in backbone.outside():
                parameter.requires_grad_(False)
            for layer in layers[: self.freeze]:
                layer.requires_grad_(False)
