"""What can be learned, one file each. A further application is one more member here."""

from typing import Annotated

from pydantic import Field

from tasks.learning.applications.dialogue import Dialogue
from tasks.learning.applications.ner import Ner
from tasks.learning.applications.summarization import Summarization
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.applications.translation import Translation

AnyApplication = Annotated[
    TextClassification | Ner | Translation | Summarization | Dialogue, Field(discriminator="kind")
]
"""Discriminated by `kind`."""
