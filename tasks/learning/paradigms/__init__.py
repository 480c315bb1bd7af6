"""How knowledge can be carried over, one file each. A further paradigm is one more member here."""

from typing import Annotated

from pydantic import Field

from tasks.learning.paradigms.domain_adaptation import DomainAdaptation
from tasks.learning.paradigms.feature_extraction import FeatureExtraction
from tasks.learning.paradigms.fine_tuning import FineTuning
from tasks.learning.paradigms.meta_learning import MetaLearning
from tasks.learning.paradigms.multi_task import MultiTask

AnyParadigm = Annotated[
    FineTuning | FeatureExtraction | MultiTask | DomainAdaptation | MetaLearning,
    Field(discriminator="kind"),
]
"""Discriminated by `kind`."""
