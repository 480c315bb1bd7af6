"""BIO tags (IOB2, Ramshaw and Marcus 1995): spans from tags, repair, and decoding that keeps to it.

words   Angela   Merkel   visited  Paris
tags    B-person I-person O        B-location
spans   (0, 2, person), (3, 4, location)        first word, one past the last, label
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

OUTSIDE = "O"


class Span(NamedTuple):
    """An entity: words `start` to `end`, the latter not included."""

    start: int
    end: int
    label: str


def tag_names(labels: Sequence[str]) -> tuple[str, ...]:
    """O, B-person, I-person, B-location, …: the order of a model's outputs."""
    return (OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in "BI"))


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities of valid tags: each starts with B and goes on while I of its label follows."""
    found: list[Span] = []
    for position, tag in enumerate(tags):
        prefix, _, label = tag.partition("-")
        if prefix == "B":
            found.append(Span(position, position + 1, label))
        elif prefix == "I" and found and found[-1][1:] == (position, label):
            found[-1] = found[-1]._replace(end=position + 1)
    return found


def repaired(tags: Sequence[str]) -> list[str]:
    """I-x that continues nothing becomes B-x; IOB1 becomes IOB2."""
    mended: list[str] = []
    for tag in tags:
        prefix, _, label = tag.partition("-")
        before = mended[-1].partition("-")[2] if mended else ""
        mended.append(f"B-{label}" if prefix == "I" and before != label else tag)
    return mended


def pattern(labels: Sequence[str], *, strict: bool) -> str:
    """A regular expression for a row's tags with blanks between; `strict`: no I continues nothing.

    O|B-a( I-a)*|B-b( I-b)*, once or more.
    """
    import re

    names = [re.escape(label) for label in labels]
    if strict:
        one = "|".join([OUTSIDE, *(f"B-{name}(?: I-{name})*" for name in names)])
    else:
        one = "|".join([OUTSIDE, f"[BI]-(?:{'|'.join(names)})"])
    return rf"^(?:{one})(?: (?:{one}))*$"


def allowed(labels: Sequence[str]) -> np.ndarray:
    """(C, C) whether a tag may follow another: I-x only B-x or I-x."""
    names = tag_names(labels)
    follows = np.ones((len(names), len(names)), dtype=bool)
    for column, name in enumerate(names):
        if name.startswith("I-"):
            follows[:, column] = [other[1:] == name[1:] for other in names]
    return follows


def decode(scores: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """(W, C) log probabilities of words' tags -> (W,) the best sequence that is valid (Viterbi)."""
    steps = np.where(follows, 0.0, -np.inf)  # (C before, C after)
    starts = np.where(follows[0], 0.0, -np.inf)  # what may follow O may begin a sentence
    best = scores[0] + starts
    pointers = np.zeros(scores.shape, dtype=int)
    for word in range(1, len(scores)):
        paths = best[:, None] + steps
        pointers[word] = paths.argmax(0)
        best = paths.max(0) + scores[word]
    tags = np.zeros(len(scores), dtype=int)
    tags[-1] = best.argmax()
    for word in range(len(scores) - 1, 0, -1):
        tags[word - 1] = pointers[word, tags[word]]
    return tags
