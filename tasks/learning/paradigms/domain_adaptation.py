"""Domain adaptation: .grad = ∇ (L_source + L_target + λ L_domain) over source rows and target text.

- adversarial: L_domain = -log D(which domain | R_λ(f)), R_λ(f) = f forward and -λ ∂f backward:
  the discriminator D learns to tell domains apart, the backbone to keep it from it. Ganin et al.
  2016, eq. 13 to 18; λ = 2 / (1 + exp(-10 p)) - 1, p the share of steps done, section 5.2.2
- mmd: L_domain = mean k(s, s') + mean k(t, t') - 2 mean k(s, t), k a sum of Gaussians. Gretton et
  al. 2012, eq. 3; Long et al. 2015 (DAN)
- coral: L_domain = ‖C_s - C_t‖² / 4H², C covariances. Sun and Saenko 2016, eq. 1
- information: L_domain = mean H(p) - H(mean p), p the predictions on the target's text, H entropy:
  each is to be sure, all of a batch varied, so labels should be about equally frequent and a batch
  hold several texts. Shi and Sha 2012; Liang et al. 2020 (SHOT), eq. 3

f is the pooled feature of a text: of the whole sentence, also where each word has a label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field

from tasks.learning.contracts import Draw
from tasks.learning.paradigms.fine_tuning import FineTuning
from tasks.learning.paradigms.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.alignment import Discriminator, Distance, Information
    from tasks.learning.batches import Streams
    from tasks.learning.contracts import Plan
    from tasks.learning.learner import Learner


class DomainAdaptation(Tuning):
    """Learn the sources' labels while the target's features are made like the sources', or
    predictions on its text sure and varied.

    With few labels an epoch is a few steps: take so many that the text is seen, too."""

    reads_sources: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True

    kind: Literal["domain_adaptation"]
    """The paradigm."""
    method: Literal["adversarial", "mmd", "coral", "information"] = "adversarial"
    """What the target's text is learned from: its features are made like the sources' against an
    adversary, by mmd or by coral; or predictions on it are made sure and varied (information)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """λ, or what it rises to, on the domain loss."""
    hidden: Annotated[int, Field(gt=0)] = 256
    """Width of the discriminator's hidden layer."""

    @property
    def moves_backbone(self) -> bool:
        """Features are; predictions can be made sure by the head alone."""
        return self.method != "information"

    @property
    def alone(self) -> FineTuning:
        """Fine-tuning of as many layers."""
        return FineTuning(kind="fine_tuning", freeze=self.freeze, lora=self.lora)

    def complaints(self, domains: Mapping[str, int], tasks: Collection[str]) -> Iterator[str]:
        """Predictions that are no labels can be neither sure nor varied."""
        *_, labels = domains.values()
        if self.method == "information" and not labels:
            yield (
                "paradigm.method information is about labels, and the target has none; accepted: "
                "adversarial, mmd, coral"
            )

    def prepare(self, learner: Learner) -> None:
        """Besides freezing: a discriminator, or what stands in its place."""
        from tasks.learning.alignment import Discriminator, Distance, Information, coral, mmd

        super().prepare(learner)
        if self.method == "adversarial":
            learner.extras["domain"] = Discriminator(learner.backbone.width, self.hidden)
        elif self.method == "information":
            learner.extras["domain"] = Information()
        else:
            learner.extras["domain"] = Distance({"mmd": mmd, "coral": coral}[self.method])

    def strength(self, progress: float) -> float:
        """λ at this share of the steps."""
        return self.weight * (2 / (1 + math.exp(-10 * progress)) - 1)

    def advance(self, learner: Learner, progress: float) -> None:
        """λ rises, since the discriminator knows nothing at first."""
        domain = cast("Discriminator | Distance | Information", learner.extras["domain"])
        domain.strength = self.strength(progress)

    def plan(self, streams: Streams) -> Plan:
        """A batch of the sources and one of the target's text; one of its labels, if it has any.

        An epoch is one of the target's labels, as for any paradigm; without them, of the sources'.
        """
        from tasks.learning.batches import Together, in_proportion

        assert streams.text is not None
        labelled = {} if streams.target is None else {"target": streams.target}
        sources = list(streams.sources.values())
        together = in_proportion(sources, sources[0].seed)
        return Together(**labelled, source=together, text=streams.text)

    def gradients(
        self, learner: Learner, draw: Draw, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """∇ of the sources' loss, the domain loss, and the target's loss where it has labels."""
        from tasks.learning.information import log_probabilities

        source, text = learner(*draw["source"]), learner(*draw["text"])
        if self.method == "information":
            domain = learner.extras["domain"](log_probabilities(text, draw["text"][1]))
        else:
            domain = learner.extras["domain"](source.features, text.features)
        total = source.loss + domain
        values = {"loss_source": float(source.loss.detach()), "loss_domain": float(domain.detach())}
        if "target" in draw:
            target = learner(*draw["target"])
            total = total + target.loss
            values["loss_target"] = float(target.loss.detach())
        backward(total)
        return {"loss": float(total.detach()), **values}
