"""What every paradigm starts from: .grad = ∇ L_target(θ) over whatever is not frozen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tasks.learning.contracts import Batch, Config, Draw

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.batches import Streams
    from tasks.learning.contracts import Paradigm, Plan
    from tasks.learning.learner import Learner


class Supervised(Config):
    """Learn from the target's labels, a batch a step."""

    frozen_backbone: ClassVar[bool] = False
    reads_target: ClassVar[bool] = True
    reads_sources: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False

    @property
    def adaptation(self) -> Paradigm | None:
        """None: the target's labels are learned at once."""
        return None

    @property
    def rows_per_label(self) -> int:
        """Any number will do."""
        return 0

    @property
    def needs_linear_head(self) -> bool:
        """Any head will do."""
        return False

    def complaints(self, domains: Mapping[str, int], tasks: Collection[str]) -> Iterator[str]:
        """Nothing."""
        return iter(())

    def initialise(self, learner: Learner, streams: Streams) -> None:
        """Nothing."""

    def parameter_groups(self, learner: Learner, learning_rate: float) -> list[dict[str, Any]]:
        """Everything that is not frozen, at one rate."""
        trained = [p for p in learner.parameters() if p.requires_grad]
        return [{"params": trained, "lr": learning_rate}]

    def advance(self, learner: Learner, progress: float) -> None:
        """Nothing changes over time."""

    def plan(self, streams: Streams) -> Plan:
        """One batch of the target a step."""
        from tasks.learning.batches import Together

        assert streams.target is not None
        return Together(target=streams.target)

    def gradients(
        self, learner: Learner, draw: Draw, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """∇ L_target."""
        return descend(learner, *draw["target"], backward)


def descend(
    learner: Learner, task: str, batch: Batch, backward: Callable[[Tensor], None]
) -> dict[str, float]:
    """∇ of a task's loss on a batch."""
    loss = learner(task, batch).loss
    backward(loss)
    return {"loss": float(loss.detach())}
