"""Rows outside a test set whose text is, or is nearly, a test row's."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

EXAMPLES = 20
# Scripts that put no spaces between words count by the character.
WORD = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff]+|[\u3040-\u30ff\u3400-\u9fff]")

Row = dict[str, Any]


@dataclass(frozen=True)
class Leak:
    """A row outside the test set whose text is, or is nearly, a test row's."""

    domain: str
    row: Row
    test_domain: str
    test_row: Row
    similarity: float
    """Jaccard of word 3-shingles; 1.0 and `kind` exact: the same text."""
    kind: str


def find_leaks(
    domain: str, rows: list[Row], test_domain: str, tests: list[Row], threshold: float
) -> list[Leak]:
    """The rows whose text equals a test row's, or has Jaccard >= `threshold` with one."""
    exact = {row["key"]: row for row in reversed(tests)}
    leaks = [
        Leak(domain, row, test_domain, exact[row["key"]], 1.0, "exact")
        for row in rows
        if row["key"] in exact
    ]
    rest = [row for row in rows if row["key"] not in exact]
    pairs = near_duplicates(
        [shingles(row["key"]) for row in rest], [shingles(row["key"]) for row in tests], threshold
    )
    return leaks + [
        Leak(domain, rest[i], test_domain, tests[j], similarity, "near")
        for i, j, similarity in pairs
    ]


def shingles(key: str) -> frozenset[str]:
    """Words in threes; a shorter text is one shingle, and so is one without words."""
    words = WORD.findall(key)
    if len(words) < 3:
        return frozenset([" ".join(words) or key])
    return frozenset(" ".join(words[i : i + 3]) for i in range(len(words) - 2))


def near_duplicates(
    left: Sequence[frozenset[str]], right: Sequence[frozenset[str]], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """(i, j, Jaccard) of each left set's most similar right set, where that is >= threshold.

    Exact by prefix filtering: J(a, b) >= t needs |a ∩ b| >= t·|a|, so, in one order of all
    shingles, the first |a| - ceil(t·|a|) + 1 of both sets must meet. With the rarest first there
    is little to compare. Chaudhuri et al. 2006; Bayardo et al. 2007.
    """
    frequency = Counter(shingle for one in right for shingle in one)

    def prefix(one: frozenset[str]) -> list[str]:
        needed = math.ceil(threshold * len(one) - 1e-9)
        return sorted(one, key=lambda s: (frequency[s], s))[: len(one) - needed + 1]

    index: dict[str, list[int]] = defaultdict(list)
    for j, one in enumerate(right):
        for shingle in prefix(one):
            index[shingle].append(j)
    for i, one in enumerate(left):
        candidates = {j for shingle in prefix(one) for j in index.get(shingle, ())}
        best = max(((_jaccard(one, right[j]), -j) for j in candidates), default=(0.0, 0))
        if best[0] >= threshold:
            yield i, -best[1], best[0]


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    both = len(a & b)
    return both / (len(a) + len(b) - both)


def leak_report(leaks: Sequence[Leak]) -> dict[str, Any]:
    """Counts by domain and kind, and a few examples."""
    counts: dict[str, dict[str, int]] = {}
    for leak in leaks:
        by_kind = counts.setdefault(leak.domain, {})
        name = f"{leak.kind} of {leak.test_domain} test"
        by_kind[name] = by_kind.get(name, 0) + 1
    examples = [
        {
            "domain": leak.domain,
            "id": row_id(leak.row),
            "test": f"{leak.test_domain} {row_id(leak.test_row)}",
            "kind": leak.kind,
            "similarity": round(leak.similarity, 3),
            "text": leak.row["key"][:200],
            "test_text": leak.test_row["key"][:200],
        }
        for leak in leaks[:EXAMPLES]
    ]
    return {"dropped": len(leaks), "by_domain": counts, "examples": examples}


def row_id(row: Row) -> str:
    """reviews.jsonl:17"""
    return f"{row['file']}:{row['row']}"
