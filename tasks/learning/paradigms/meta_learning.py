"""Meta-learning: a start θ from which a few labels go far, learned over episodes of few labels.

Inner steps go from φ = θ by φ ← φ − α ∇L(φ) on an episode's support rows. Then, over episodes,
- maml: .grad = mean ∇_θ L_query(φ(θ)), through the inner steps. Finn et al. 2017, eq. 1
- fomaml: .grad = mean ∇_φ L_query(φ), the inner steps held fixed. Finn et al. 2017, section 5.2
- reptile: .grad = mean θ − φ, the inner steps over support and query. Nichol et al. 2018, alg. 2
- prototypical: no inner steps; .grad = mean ∇_θ −log p(y | f), p(c | f) ∝ exp(−‖f − μ_c‖²), μ_c the
  mean of a label's support rows. Snell et al. 2017, eq. 1 and 2

Episodes are drawn from the sources alone, in a stage of their own; the adaptation to the target's
few labels, fine-tuning from there, is the next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.learning.contracts import Batch, Draw
from tasks.learning.paradigms.fine_tuning import FineTuning
from tasks.learning.paradigms.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.batches import Streams
    from tasks.learning.contracts import Plan
    from tasks.learning.learner import Learner


class MetaLearning(Tuning):
    """Learn from the sources' episodes where to start; then fine-tune on the target's labels."""

    reads_sources: ClassVar[bool] = True
    reads_target: ClassVar[bool] = False

    kind: Literal["meta_learning"]
    """The paradigm."""
    method: Literal["maml", "fomaml", "reptile", "prototypical"] = "fomaml"
    """How an episode becomes a gradient."""
    steps: Annotated[int, Field(gt=0)] = 200
    """Steps of the start's weights, each over `episodes`."""
    episodes: Annotated[int, Field(gt=0)] = 4
    """Episodes a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Peak learning rate of the start's weights; training.learning_rate is the adaptation's."""
    ways: Annotated[int, Field(ge=2)] | None = None
    """Labels an episode is about, drawn anew for each; its head starts at zero, for the source's
    other labels too. null: all the labels of a source, so that episodes differ by source alone."""
    shots: Annotated[int, Field(gt=0)] = 5
    """Rows of each label that an episode adapts on, in one batch."""
    queries: Annotated[int, Field(gt=0)] = 5
    """Rows of each label that it is judged on."""
    inner_steps: Annotated[int, Field(gt=0)] = 3
    """Steps of plain gradient descent within an episode."""
    inner_learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """α"""

    @property
    def adaptation(self) -> FineTuning:
        """Fine-tuning of the same weights; its head starts as it did in the episodes."""
        head: Literal["inherit", "prototypes", "zero"] = "inherit" if self.ways is None else "zero"
        if self.method == "prototypical":
            head = "prototypes"
        return FineTuning(kind="fine_tuning", freeze=self.freeze, lora=self.lora, head=head)

    @property
    def alone(self) -> FineTuning:
        """The adaptation, from the backbone as it came."""
        return self.adaptation

    @property
    def moves_backbone(self) -> bool:
        """Prototypes have no weights of their own, and a head at zero keeps nothing."""
        return self.method == "prototypical" or self.ways is not None

    @property
    def rows_per_label(self) -> int:
        """An episode's."""
        return self.shots + self.queries

    @property
    def needs_linear_head(self) -> bool:
        """As the adaptation does."""
        return self.adaptation.needs_linear_head

    @model_validator(mode="after")
    def reptile_needs_two_steps(self) -> Self:
        """After one inner step θ − φ is α times the plain gradient."""
        if self.method == "reptile" and self.inner_steps < 2:
            raise ValueError("reptile with inner_steps 1 is plain training; use 2 or more")
        return self

    def complaints(self, domains: Mapping[str, int], tasks: Collection[str]) -> Iterator[str]:
        """One source only and always the same labels, or more labels to draw than there are."""
        *sources, _target = domains.items()
        if len(sources) < 2 and all(self.ways in (None, labels) for _, labels in sources):
            yield (
                "meta_learning learns over several tasks, and there is one source with labels; add "
                "another, or set paradigm.ways to draw tasks from some of its labels at a time"
            )
        for name, labels in sources:
            if self.method == "prototypical" and not labels:
                yield f"paradigm.method prototypical is about labels, and '{name}' has none"
            if self.ways is not None and self.ways > labels:
                yield f"paradigm.ways is {self.ways}, but '{name}' has {labels} labels"

    def parameter_groups(self, learner: Learner, learning_rate: float) -> list[dict[str, Any]]:
        """Everything that is not frozen, at this paradigm's own rate."""
        return super().parameter_groups(learner, self.learning_rate)

    def plan(self, streams: Streams) -> Plan:
        """So many episodes a step.

        Raises:
            Unfit: a source has not rows enough for one.
        """
        from tasks.learning.episodes import Episodes

        return Episodes(
            streams.sources,
            steps=self.steps,
            at_once=self.episodes,
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
        )

    def gradients(
        self, learner: Learner, draw: Draw, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """The mean over the drawn episodes of what the method makes of one."""
        from tasks.learning.prototypes import prototype_loss

        count = len(draw) // 2
        losses = []
        for i in range(count):
            (task, support), (_, query) = draw[f"support {i}"], draw[f"query {i}"]
            if self.method == "prototypical":
                loss = prototype_loss(learner, task, support, query)
                backward(loss / count)
            else:
                loss = self._optimize(learner, task, support, query, backward, 1 / count)
            losses.append(float(loss.detach()))
        return {"loss": sum(losses) / count}

    def _optimize(
        self,
        learner: Learner,
        task: str,
        support: Batch,
        query: Batch,
        backward: Callable[[Tensor], None],
        share: float,
    ) -> Tensor:
        """MAML, FOMAML or Reptile on one episode; () the query's loss, after the inner steps."""
        from tasks.learning.descent import (
            accumulate,
            descended,
            gradients_of,
            loss_at,
            twice_differentiable,
            zeroed,
        )

        theta = {n: p for n, p in learner.named_parameters() if p.requires_grad}
        start = theta if self.ways is None else {**theta, **zeroed(learner, task)}
        if self.method == "reptile":
            seen = [(support, query)[i % 2] for i in range(self.inner_steps)]
            phi = descended(learner, task, start, seen, self.inner_learning_rate)
            moved = {n: (p - phi[n]).detach() for n, p in theta.items() if phi[n] is not p}
            accumulate(theta, {n: g for n, g in moved.items() if start[n] is theta[n]}, share)
            return loss_at(learner, task, phi, query)
        seen = [support] * self.inner_steps
        if self.method == "maml":
            with twice_differentiable():
                phi = descended(learner, task, start, seen, self.inner_learning_rate, through=True)
                loss = loss_at(learner, task, phi, query)
                backward(share * loss)
            return loss
        phi = descended(learner, task, start, seen, self.inner_learning_rate)
        loss = loss_at(learner, task, phi, query)
        found = gradients_of(loss, phi)
        accumulate(theta, {n: g for n, g in found.items() if start[n] is theta[n]}, share)
        return loss
