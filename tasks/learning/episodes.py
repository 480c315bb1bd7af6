"""Small tasks drawn from larger ones: N labels, K rows of each to adapt on, Q to be judged on.

Vinyals et al. 2016, "Matching Networks", section 2.2. Pure in (seed, step).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

import numpy as np

from tasks.learning.batches import Stream
from tasks.learning.contracts import Application, Draw, Row, Unfit

Episode = tuple[Stream, tuple[list[int], list[int]]]
"""Where its rows are from, and which: to adapt on, and to be judged on."""
ATTEMPTS = 100
"""Tries, until labels and an order of the rows are found that give each label rows enough."""


class Episodes:
    """A plan that draws, at each step, so many episodes, each from one stream."""

    def __init__(
        self,
        streams: Mapping[str, Stream],
        *,
        steps: int,
        at_once: int,
        ways: int | None,
        shots: int,
        queries: int,
    ) -> None:
        """Draw the rows of every episode, so that one that cannot be is known before training.

        Args:
            streams: by domain, where episodes are drawn from; each knows the labels of its rows.
            steps: how many there are in all, since episodes have no epochs.
            at_once: episodes a step.
            ways: labels an episode has; None: all of its stream's.
            shots: rows of each label to adapt on; a row with two labels counts for both.
            queries: rows of each label to be judged on.

        Raises:
            Unfit: a domain has not rows enough.
        """
        self.seed = next(iter(streams.values())).seed
        self.ways, self.shots, self.queries = ways, shots, queries
        self._episodes = [self._drawn(streams, at_once, step) for step in range(steps)]

    def steps(self, epochs: int) -> int:
        """The same number for any number of epochs."""
        return len(self._episodes)

    def epoch(self, step: int) -> int:
        """All steps are of one."""
        return 0

    def draw(self, step: int) -> Draw:
        """{"support 0": ("books", batch), "query 0": ("books", batch), "support 1": …}"""
        return {
            f"{role} {i}": (stream.task, stream.gather(rows))
            for i, (stream, sets) in enumerate(self._episodes[step])
            for role, rows in zip(("support", "query"), sets, strict=True)
        }

    def _drawn(self, streams: Mapping[str, Stream], at_once: int, step: int) -> list[Episode]:
        """The episodes of a step, from as many streams in turn as there are."""
        generator = np.random.default_rng([self.seed, step])
        order = generator.permutation(list(streams)).tolist()
        episodes = []
        for i in range(at_once):
            name = order[i % len(order)]
            stream = streams[name]
            try:
                sets = draw_rows(stream.classes, self.shots, self.queries, self.ways, generator)
            except Unfit as error:
                raise Unfit(f"{name}: {error}") from error
            episodes.append((stream, sets))
        return episodes


def classes_of(application: Application, row: Row) -> Set[str]:
    """The labels a row counts for; where text is written, all rows count as of one."""
    return application.classes(row) & set(application.labels) if application.labels else {""}


def draw_rows(
    classes: Sequence[Set[str]],
    shots: int,
    queries: int,
    ways: int | None,
    generator: np.random.Generator,
) -> tuple[list[int], list[int]]:
    """Rows to adapt on and rows to be judged on, none in both.

    Args:
        classes: the labels of each row; rows without any are never drawn.
        shots: rows of each label in the first set, more where a row has several labels.
        queries: the same of the second.
        ways: how many labels; rows that have others as well are not drawn. None: all.
        generator: what chance follows from.

    Raises:
        Unfit: in ATTEMPTS tries there were never rows enough.
    """
    known = sorted(set[str]().union(*classes))
    for _ in range(ATTEMPTS):
        drawn = set(known if ways is None else generator.choice(known, ways, replace=False))
        order = generator.permutation(len(classes)).tolist()
        eligible = [row for row in order if classes[row] and classes[row] <= drawn]
        support = _first(eligible, classes, drawn, shots)
        used = set(support)
        query = _first([row for row in eligible if row not in used], classes, drawn, queries)
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
