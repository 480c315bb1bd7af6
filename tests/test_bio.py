"""BIO tags: spans, repair, validity, decoding."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from tasks.learning.applications import bio

LABELS = ("person", "place")


def brute_force(scores: np.ndarray, follows: np.ndarray) -> tuple[int, ...]:
    """The best valid sequence, by trying all."""
    words, tags = scores.shape

    def value(sequence: tuple[int, ...]) -> float:
        steps = itertools.pairwise((0, *sequence))
        if not all(follows[before, after] for before, after in steps):
            return -np.inf
        return float(sum(scores[word, tag] for word, tag in enumerate(sequence)))

    return max(itertools.product(range(tags), repeat=words), key=value)


def test_spans() -> None:
    """An entity is a B and the I's of its label right after it."""
    tags = ["B-person", "I-person", "O", "B-place", "B-place", "I-place", "B-person"]
    assert bio.spans(tags) == [
        (0, 2, "person"),
        (3, 4, "place"),
        (4, 6, "place"),
        (6, 7, "person"),
    ]
    assert bio.spans(["O", "O"]) == []


@pytest.mark.parametrize(
    ("tags", "mended"),
    [
        ("O I-person I-person", "O B-person I-person"),
        ("I-place O", "B-place O"),
        ("B-person I-place", "B-person B-place"),
        ("I-person B-person I-person", "B-person B-person I-person"),  # IOB1
        ("B-person I-person O", "B-person I-person O"),
    ],
)
def test_repair(tags: str, mended: str) -> None:
    """An I that continues nothing begins an entity; valid tags stay as they are."""
    assert bio.repaired(tags.split()) == mended.split()


@pytest.mark.parametrize("strict", [True, False])
def test_pattern_agrees_with_repair(strict: bool) -> None:
    """The strict pattern matches exactly what needs no repair; the other any known tags."""
    pattern = re.compile(bio.pattern(LABELS, strict=strict))
    for tags in itertools.product(bio.tag_names(LABELS), repeat=3):
        valid = bio.repaired(tags) == list(tags)
        assert bool(pattern.match(" ".join(tags))) == (valid or not strict)
    for wrong in ("B-thing", "O O-person", "", "O  O", "o", "B-person-", "B-"):
        assert not pattern.match(wrong)


def test_decode_is_the_best_valid_sequence() -> None:
    """Viterbi finds what trying all sequences finds, and it is always valid."""
    generator = np.random.default_rng(0)
    follows = bio.allowed(LABELS)
    names = bio.tag_names(LABELS)
    for words in (1, 2, 4):
        for _ in range(20):
            scores = np.log(generator.dirichlet(np.ones(len(names)), size=words))
            found = bio.decode(scores, follows)
            assert tuple(found) == brute_force(scores, follows)
            tags = [names[tag] for tag in found]
            assert bio.repaired(tags) == tags
