"""How knowledge can be carried over, one file each. A further paradigm is one more member here."""

from tasks.learning.paradigms.fine_tuning import FineTuning

AnyParadigm = FineTuning
"""Discriminated by `kind`."""
