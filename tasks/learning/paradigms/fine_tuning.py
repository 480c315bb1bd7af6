"""Fine-tuning: .grad = ∇ L_target(θ), starting from the source's θ.

- gradual unfreezing and per-layer rates η_l = η · decay^(top − l): Howard and Ruder 2018 (ULMFiT)
- a head of prototypes to start from: Snell et al. 2017; Triantafillou et al. 2020, Proto-MAML
- layers frozen, LoRA: see `tuning.py`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.learning.contracts import Unfit
from tasks.learning.paradigms.tuning import Tuning

if TYPE_CHECKING:
    from tasks.learning.batches import Streams
    from tasks.learning.learner import Learner


class FineTuning(Tuning):
    """Train on the target's labels from where the source left the weights."""

    kind: Literal["fine_tuning"]
    """The paradigm."""
    gradual_unfreezing: bool = False
    """Start with the head alone; free one more layer at a time, top first, over the first half."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer's learning rate is this times that of the layer above."""
    head: Literal["inherit", "prototypes", "zero"] = "inherit"
    """How the target's head starts. inherit: as the source left it, or with what a source's head
    knows of the labels both have by name. prototypes: such that it answers with the nearest mean of
    the target's labelled rows. zero: its last layer at zero, which favours no label."""

    @property
    def alone(self) -> FineTuning:
        """The same, from the backbone as it came."""
        return self

    @property
    def needs_linear_head(self) -> bool:
        """Prototypes are the weights of one layer."""
        return self.head == "prototypes"

    @model_validator(mode="after")
    def lora_has_no_layers(self) -> Self:
        """With LoRA the layer options have nothing to act on."""
        if self.lora and (self.gradual_unfreezing or self.layer_decay != 1.0):
            raise ValueError(
                "lora keeps every layer as it is already; remove gradual_unfreezing and "
                "layer_decay, or lora"
            )
        return self

    def initialise(self, learner: Learner, streams: Streams) -> None:
        """Put the prototypes or the zeros into the head, where asked for."""
        from torch import nn

        from tasks.learning.batches import Stream
        from tasks.learning.learner import last_layer
        from tasks.learning.prototypes import set_head

        if self.head == "inherit":
            return
        assert isinstance(streams.target, Stream)
        if self.head == "prototypes":
            set_head(learner, streams.target)
        else:
            for parameter in last_layer(learner.heads[streams.target.task]).parameters():
                nn.init.zeros_(parameter)

    def prepare(self, learner: Learner) -> None:
        """Freeze the lower layers, or put adapters in.

        Raises:
            Unfit: all layers are frozen, and there are options about those that are not.
        """
        super().prepare(learner)
        if self.freeze == len(learner.backbone.layers()) and (
            self.gradual_unfreezing or self.layer_decay != 1.0
        ):
            raise Unfit(
                f"freeze is {self.freeze}, every layer; remove gradual_unfreezing and layer_decay, "
                "or lower it"
            )

    def parameter_groups(self, learner: Learner, learning_rate: float) -> list[dict[str, Any]]:
        """Head and top layer at `learning_rate`, each layer below at `layer_decay` times that."""
        if self.lora:
            return super().parameter_groups(learner, learning_rate)
        backbone, rate = learner.backbone, learning_rate
        groups: list[dict[str, Any]] = []
        for layer in reversed(backbone.layers()):
            groups.append({"params": list(layer.parameters()), "lr": rate})
            rate *= self.layer_decay
        groups.append({"params": backbone.outside(), "lr": rate})
        below = {id(p) for group in groups for p in group["params"]}
        above = [p for p in learner.parameters() if id(p) not in below]
        groups.append({"params": above, "lr": learning_rate})
        trained = [
            {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
        ]
        return [group for group in trained if group["params"]]

    def advance(self, learner: Learner, progress: float) -> None:
        """With gradual unfreezing: the top k layers learn, k rising to all at half-way."""
        if not self.gradual_unfreezing:
            return
        layers = list(learner.backbone.layers())[self.freeze :]
        steps = len(layers) + (0 if self.freeze else 1)  # what is in no layer comes last
        free = min(steps, int(2 * progress * (steps + 1)))
        for depth, layer in enumerate(reversed(layers)):
            layer.requires_grad_(depth < free)
        if not self.freeze:
            for parameter in learner.backbone.outside():
                parameter.requires_grad_(free == steps)
