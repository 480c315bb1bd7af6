"""Feature extraction: .grad = ∇_head L_target(head(f)), f = backbone(x) computed once.

The backbone is frozen, so each row's features are kept on disk (see `tasks/features.py`) and an
epoch costs no more than the head. Donahue et al. 2014, DeCAF; Peters et al. 2019, "To Tune or Not
to Tune?"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.learning.paradigms.supervised import Supervised

if TYPE_CHECKING:
    from tasks.learning.learner import Learner


class FeatureExtraction(Supervised):
    """Train a head on what the backbone, left as it is, says of each text or word."""

    frozen_backbone: ClassVar[bool] = True

    kind: Literal["feature_extraction"]
    """The paradigm."""

    @property
    def alone(self) -> FeatureExtraction:
        """The same, on the backbone as it came."""
        return self

    def prepare(self, learner: Learner) -> None:
        """Freeze the backbone."""
        learner.backbone.requires_grad_(False)
