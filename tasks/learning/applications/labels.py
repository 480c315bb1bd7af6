"""What an application's labels must be."""

from __future__ import annotations

from collections import Counter


def distinct(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels as they are.

    Raises:
        ValueError: one is there twice, so rows that have it would be two classes; or has blanks
            around it, which rows lose.
    """
    if blank := [label for label in labels if label != label.strip() or not label]:
        raise ValueError(f"'{blank[0]}' is empty or has blanks around it, which no row's label has")
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise ValueError(f"'{twice[0]}' is there twice; give each label once")
    return labels
