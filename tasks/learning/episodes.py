"""Small tasks drawn from larger ones: N labels, K rows of each to adapt on, Q to be judged on.

Vinyals et al. 2016, "Matching Networks", section 2.2. Pure in (seed, step).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

import numpy as np

from tasks.learning.batches import Stream
from tasks.learning.contracts import Draw, Unfit

ATTEMPTS = 100
"""Tries, until labels and an order of the rows are found that give each label rows enough."""


class Episodes:
    """A plan that draws, at each step, so many episodes, each from one stream."""

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        steps: int,
        at_once: int,
        ways: int | None,
        shots: int,
        queries: int,
        balanced: bool = True,
    ) -> None:
        """Args:
        streams: where episodes are drawn from; each knows the labels of its rows.
        steps: how many there are in all, since episodes have no epochs.
        at_once: episodes a step.
        ways: labels an episode has; None: all of its stream's.
        shots: rows of each label to adapt on; a row with two labels counts for both.
        queries: rows of each label to be judged on.
        balanced: whether those are so many of each, or as many in all, as they come.

        Raises:
            Unfit: a stream has not rows enough for one.
        """
        self.streams, self.at_once = streams, at_once
        self.ways, self.shots, self.queries, self.balanced = ways, shots, queries, balanced
        self.seed = streams[0].seed
        self._steps = steps
        for stream in streams:  # at once, not in the middle of the training
            try:
                self._rows(stream, np.random.default_rng(self.seed))
            except Unfit as error:
                raise Unfit(f"{stream.task}: {error}") from error

    def steps(self, epochs: int) -> int:
        """The same number for any number of epochs."""
        return self._steps

    def epoch(self, step: int) -> int:
        """All steps are of one."""
        return 0

    def draw(self, step: int) -> Draw:
        """{"support 0": ("books", batch), "query 0": ("books", batch), "support 1": …}"""
        generator = np.random.default_rng([self.seed, step])
        order = generator.permutation(len(self.streams))
        draw = {}
        for i in range(self.at_once):
            stream = self.streams[order[i % len(order)]]
            sets = self._rows(stream, generator)
            for role, rows in zip(("support", "query"), sets, strict=True):
                draw[f"{role} {i}"] = (stream.task, stream.gather(rows))
        return draw

    def _rows(self, stream: Stream, generator: np.random.Generator) -> tuple[list[int], list[int]]:
        """An episode's rows of a stream."""
        return draw_rows(
            stream.classes,
            self.shots,
            self.queries,
            self.ways,
            generator,
            balanced=self.balanced,
        )


def draw_rows(
    classes: Sequence[Set[str]],
    shots: int,
    queries: int,
    ways: int | None,
    generator: np.random.Generator,
    *,
    balanced: bool = True,
) -> tuple[list[int], list[int]]:
    """Rows to adapt on and rows to be judged on, none in both.

    Args:
        classes: the labels of each row; rows without any are never drawn.
        shots: rows of each label in the first set, more where a row has several labels.
        queries: the same of the second, as far as it is balanced.
        ways: how many labels; rows that have others as well are not drawn. None: all.
        generator: what chance follows from.
        balanced: whether the second set has so many of each label, or as many in all, as they come.

    Raises:
        Unfit: in ATTEMPTS tries no label had rows enough.
    """
    known = sorted(set[str]().union(*classes))
    for _ in range(ATTEMPTS):
        drawn = set(known if ways is None else generator.choice(known, ways, replace=False))
        order = generator.permutation(len(classes)).tolist()
        eligible = [row for row in order if classes[row] and classes[row] <= drawn]
        support = _first(eligible, classes, drawn, shots)
        used = set(support)
        left = [row for row in eligible if row not in used]
        query = _first(left, classes, drawn, queries) if balanced else left[: queries * len(drawn)]
        if support and query:
            return support, query
    raise Unfit(
        f"an episode takes {shots} + {queries} rows of each of {ways or 'all'} labels and of no "
        "other, and there are too few; lower paradigm.ways, shots or queries"
    )


def _first(
    order: Sequence[int], classes: Sequence[Set[str]], labels: Set[str], count: int
) -> list[int]:
    """The rows, in order, that a label still lacks, until each has `count`; none if one has not."""
    seen: Counter[str] = Counter()
    chosen = []
    for row in order:
        if any(seen[label] < count for label in classes[row]):
            chosen.append(row)
            seen.update(classes[row])
            if all(seen[label] >= count for label in labels):
                return chosen
    return []
