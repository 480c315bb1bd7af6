"""What can be learned, one file each. A further application is one more member here."""

from tasks.learning.applications.text_classification import TextClassification

AnyApplication = TextClassification
"""Discriminated by `kind`."""
