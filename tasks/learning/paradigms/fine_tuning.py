"""Fine-tuning: .grad = ∇ L_target(θ), starting from the source's θ.

- layers frozen: Yosinski et al. 2014, "How transferable are features in deep neural networks?"
- gradual unfreezing and per-layer rates η_l = η · decay^(top − l): Howard and Ruder 2018 (ULMFiT)
- LoRA, W + (α/r) B A with W frozen: Hu et al. 2021
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.learning.contracts import Config, Draw, Unfit

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.batches import Mixture, Stream
    from tasks.learning.learner import Learner


class Lora(Config):
    """Train low-rank updates of the linear layers instead of their weights."""

    rank: Annotated[int, Field(gt=0)] = 8
    """r, the rank of the update."""
    alpha: Annotated[int, Field(gt=0)] = 16
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the update's input."""


class FineTuning(Config):
    """Train on the target's labels from where the source left the weights."""

    kind: Literal["fine_tuning"]
    """The paradigm."""
    freeze: Annotated[int, Field(ge=0)] = 0
    """So many lower layers, and the embeddings below them, stay as they are; 0: none."""
    gradual_unfreezing: bool = False
    """Start with the head alone; free one more layer at a time, top first, over the first half."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer's learning rate is this times that of the layer above."""
    lora: Lora | None = None
    """Train low-rank adapters; null: train the weights themselves."""

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """LoRA keeps every layer frozen, so the layer options have nothing to act on."""
        if self.lora and (self.freeze or self.gradual_unfreezing or self.layer_decay != 1.0):
            raise ValueError(
                "lora freezes the whole backbone; it goes without freeze, gradual_unfreezing "
                "and layer_decay"
            )
        return self

    def prepare(self, learner: Learner) -> None:
        """Freeze the lower layers, or put adapters in.

        Raises:
            Unfit: more layers are to be frozen than there are.
        """
        backbone = learner.backbone
        layers = backbone.layers()
        if self.freeze > len(layers):
            raise Unfit(f"freeze is {self.freeze}, but the backbone has {len(layers)} layers")
        if self.lora:
            backbone.add_lora(self.lora.rank, self.lora.alpha, self.lora.dropout)
        elif self.freeze:
            for parameter in backbone.embeddings():
                parameter.requires_grad_(False)
            for layer in layers[: self.freeze]:
                layer.requires_grad_(False)

    def parameter_groups(self, learner: Learner, learning_rate: float) -> list[dict[str, Any]]:
        """Head and top layer at `learning_rate`, each layer below at `layer_decay` times that."""
        backbone = learner.backbone
        groups: list[dict[str, Any]] = []
        if self.lora:
            groups.append({"params": list(backbone.parameters()), "lr": learning_rate})
        else:
            rate = learning_rate
            for layer in reversed(backbone.layers()):
                groups.append({"params": list(layer.parameters()), "lr": rate})
                rate *= self.layer_decay
            groups.append({"params": backbone.embeddings(), "lr": rate})
        heads = [*learner.heads.parameters(), *learner.extras.parameters()]
        groups.append({"params": heads, "lr": learning_rate})
        trained = [
            {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
        ]
        return [group for group in trained if group["params"]]

    def advance(self, learner: Learner, progress: float) -> None:
        """With gradual unfreezing: the top k layers learn, k rising to all at half-way."""
        if not self.gradual_unfreezing:
            return
        layers = list(learner.backbone.layers())[self.freeze :]
        steps = len(layers) + (0 if self.freeze else 1)  # the embeddings come last
        free = min(steps, int(2 * progress * (steps + 1)))
        for depth, layer in enumerate(reversed(layers)):
            layer.requires_grad_(depth < free)
        if not self.freeze:
            for parameter in learner.backbone.embeddings():
                parameter.requires_grad_(free == steps)

    def draws(self, sources: Mapping[str, Stream], target: Stream | Mixture, step: int) -> Draw:
        """One batch of the target."""
        return {"target": target.draw(step)}

    def gradients(
        self, learner: Learner, draw: Draw, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """∇ L_target."""
        output = learner(*draw["target"])
        backward(output.loss)
        return {"loss": float(output.loss.detach())}
