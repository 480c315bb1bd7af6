"""Multi-task learning: .grad = ∇ wₖ Lₖ(θ, headₖ), a task k at a step, the backbone shared.

- one head a task, the backbone shared: Caruana 1997, "Multitask Learning"
- sampling pₖ ∝ nₖ^(1/T), n rows, T temperature: Arivazhagan et al. 2019, section 3.1
- uncertainty: L = Σ exp(−sₖ) Lₖ + sₖ/2, s = log σ² learned: Kendall et al. 2018, eq. 10
- affinity of task i for j: 1 − Lⱼ(θ − η ∇Lᵢ) / Lⱼ(θ): Fifty et al. 2021, eq. 1; above 0, i helps j
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from tasks.learning.contracts import Batch, Draw
from tasks.learning.paradigms.fine_tuning import FineTuning
from tasks.learning.paradigms.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.learning.batches import Mixture, Streams
    from tasks.learning.contracts import Plan
    from tasks.learning.learner import Learner

VARIANCES = "log_variances"
VARIANCE_RATE = 0.02
"""Peak learning rate of the log variances: at a backbone's rate they would hardly leave 0."""
PROBE = 0.01
"""Length of the step by which it is measured whether one task helps another."""


class MultiTask(Tuning):
    """Learn the sources' labels and the target's together, one head a task."""

    reads_sources: ClassVar[bool] = True

    kind: Literal["multi_task"]
    """The paradigm."""
    temperature: Annotated[float, Field(ge=1)] = 1.0
    """1: a domain is drawn in proportion to its rows; the larger, the more evenly."""
    shares: dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Domain -> how often it is drawn; null: as `temperature` says."""
    weights: dict[str, Annotated[float, Field(ge=0)]] | Literal["uncertainty"] = {}
    """Task -> weight of its loss, 1 where none is given; uncertainty: learned."""
    probe_every: Annotated[int, Field(gt=0)] = 50
    """Steps between two measurements of which task helps which."""

    @model_validator(mode="after")
    def shares_or_temperature(self) -> Self:
        """One of them says how often a domain is drawn."""
        if self.shares and self.temperature != 1.0:
            raise ValueError(
                "shares say how often a domain is drawn; remove temperature, or shares"
            )
        return self

    @property
    def moves_backbone(self) -> bool:
        """It is what the tasks share."""
        return True

    @property
    def alone(self) -> FineTuning:
        """Fine-tuning of as many layers."""
        return FineTuning(kind="fine_tuning", freeze=self.freeze, lora=self.lora)

    def complaints(self, domains: Mapping[str, int], tasks: Collection[str]) -> Iterator[str]:
        """Shares of what is no domain, weights of what is no task, and some domain left out."""
        shares, weights = self.shares or {}, {} if self.weights == "uncertainty" else self.weights
        for name in sorted(set(shares) - set(domains)):
            yield f"paradigm.shares names '{name}'; the domains are {', '.join(domains)}"
        for name in sorted(set(domains) - set(shares)) if shares else []:
            yield f"paradigm.shares lacks '{name}'; give every domain a share"
        for name in sorted(set(weights) - set(tasks)):
            yield f"paradigm.weights names '{name}'; the tasks are {', '.join(tasks)}"
        target = next(iter(tasks))
        if weights.get(target) == 0:
            yield f"paradigm.weights gives the target's '{target}' 0, so nothing would learn it"

    def prepare(self, learner: Learner) -> None:
        """Besides freezing: a learned log variance for each task, at 0, where asked for."""
        import torch
        from torch import nn

        from tasks.learning.learner import inside

        super().prepare(learner)
        if self.weights == "uncertainty":
            zeros = {inside(task): nn.Parameter(torch.zeros(())) for task in learner.tasks}
            learner.extras[VARIANCES] = nn.ParameterDict(zeros)

    def parameter_groups(self, learner: Learner, learning_rate: float) -> list[dict[str, Any]]:
        """The log variances at a rate of their own, and everything else that is not frozen."""
        groups = super().parameter_groups(learner, learning_rate)
        if self.weights != "uncertainty":
            return groups
        variances = list(learner.extras[VARIANCES].parameters())
        own = {id(p) for p in variances}
        rest = [
            {**group, "params": [p for p in group["params"] if id(p) not in own]}
            for group in groups
        ]
        return [{"params": variances, "lr": VARIANCE_RATE}, *rest]

    def plan(self, streams: Streams) -> Plan:
        """A domain at a step; an epoch is an epoch of the target."""
        from tasks.learning.batches import Mixture, Stream

        target = streams.target
        assert isinstance(target, Stream)
        domains = {streams.target_name: target, **streams.sources}
        sizes = {n: len(s.examples) ** (1 / self.temperature) for n, s in domains.items()}
        shares = self.shares or sizes
        mixture = Mixture(
            list(domains.values()), [shares[name] for name in domains], pace=0, seed=target.seed
        )
        return Probing(mixture, self.probe_every)

    def gradients(
        self, learner: Learner, draw: Draw, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """∇ of the drawn task's weighted loss."""
        from tasks.learning.learner import inside

        task, batch = draw["train"]
        loss = learner(task, batch).loss
        values = {"loss": float(loss.detach()), f"loss_{task}": float(loss.detach())}
        if self.weights == "uncertainty":
            variance = cast("nn.ParameterDict", learner.extras[VARIANCES])[inside(task)]
            loss = (-variance).exp() * loss + variance / 2
            values[f"weight_{task}"] = float((-variance.detach()).exp())
        elif task in self.weights:
            loss = self.weights[task] * loss
        backward(loss)
        probes = {other: batch for role, (other, batch) in draw.items() if role != "train"}
        return values | affinities(learner, task, probes)


class Probing:
    """A mixture that at every so many steps also draws a batch of each other task."""

    def __init__(self, mixture: Mixture, every: int) -> None:
        """The mixture sets the pace."""
        self.mixture, self.every, self.seed = mixture, every, mixture.seed
        self.steps, self.epoch = mixture.steps, mixture.epoch

    def draw(self, step: int) -> Draw:
        """{"train": …}, and now and then {"probe news": …} for each other task."""
        task, batch = self.mixture.draw(step)
        draw = {"train": (task, batch)}
        if step % self.every == self.every - 1:
            others = [stream for stream in self.mixture.streams if stream.task != task]
            draw |= {f"probe {stream.task}": stream.draw(step) for stream in others}
        return draw


def affinities(learner: Learner, task: str, probes: Mapping[str, Batch]) -> dict[str, float]:
    """How much a small step down this task's gradient lowers each other task's loss, as a share."""
    moved = [(p, p.grad) for p in learner.backbone.parameters() if p.grad is not None]
    if not probes or not any(g.any() for _, g in moved):
        return {}
    before = losses(learner, probes)
    with stepped(moved):
        after = losses(learner, probes)
    helped = [other for other, loss in before.items() if loss > 0]
    return {f"affinity/{task}/{other}": 1 - after[other] / before[other] for other in helped}


def losses(learner: Learner, probes: Mapping[str, Batch]) -> dict[str, float]:
    """Each task's loss without dropout and in float32: before and after differ by the step alone,
    which bfloat16 would round away."""
    import torch

    from tasks.learning.prediction import evaluating

    device = next(learner.parameters()).device.type
    with evaluating(learner), torch.autocast(device, enabled=False):
        return {other: float(learner(other, batch).loss) for other, batch in probes.items()}


@contextmanager
def stepped(moved: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Each parameter a part of PROBE down its gradient inside, and where it was afterwards."""
    import torch

    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for _, g in moved]))
    kept = [p.detach().clone() for p, _ in moved]
    try:
        with torch.no_grad():
            for parameter, gradient in moved:
                parameter.sub_(PROBE * gradient / norm)
        yield
    finally:
        with torch.no_grad():
            for (parameter, _), value in zip(moved, kept, strict=True):
                parameter.copy_(value)
