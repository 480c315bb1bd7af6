"""Batches bounded by padded tokens, of rows about equally long; pure in (seed, step).

budget 64 tokens:  8 rows of 8 tokens | 4 rows of 16 | 1 row of 60
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import numpy as np
import torch

from tasks.learning.contracts import IGNORED, Batch, Draw, Example

POOL = 4096
"""Rows that are sorted by length together: large enough for little padding, and far smaller than
a large epoch, so that which rows meet in a batch changes from epoch to epoch."""
JITTER = 0.1
"""Lengths are blurred by this share before sorting, so that small sets are mixed too."""


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad to the longest example.

    Two rows become input_ids [[101, 2307, 102], [101, 102, 0]],
    attention_mask [[1, 1, 1], [1, 1, 0]] and labels [1, 0].
    """
    longest = max(len(e["input_ids"]) for e in examples)
    ids = torch.full((len(examples), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        length = len(example["input_ids"])
        ids[i, :length] = torch.tensor(example["input_ids"])
        mask[i, :length] = 1
    batch = Batch(input_ids=ids, attention_mask=mask)
    if all("labels" in e for e in examples):
        batch["labels"] = _labels([e["labels"] for e in examples])
    if all("represented" in e for e in examples):
        batch["represented"] = _stacked([e["represented"] for e in examples])
    if all("words" in e for e in examples):
        batch["words"] = _padded([e["words"] for e in examples], 0)
    return batch


def length(example: Example) -> int:
    """The tokens of what is read and of what is to be written; tags of words are no tokens."""
    labels = example.get("labels", 0)
    written = 0 if isinstance(labels, int) or "words" in example else len(labels)
    return len(example["input_ids"]) + written


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return cast(Batch, {name: cast(torch.Tensor, t).to(device) for name, t in batch.items()})


def _labels(labels: Sequence[int | list[int]]) -> torch.Tensor:
    """(B,) for one label a row; (B, T) padded with IGNORED for sequences."""
    if isinstance(labels[0], int):
        return torch.tensor(labels)
    return _padded(cast(Sequence[list[int]], labels), IGNORED)


def _stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """(B, H) of vectors, (B, longest, H) of matrices, filled up with zeros."""
    tensors = [torch.from_numpy(np.array(array)) for array in arrays]  # copied off the disk
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def _padded(sequences: Sequence[list[int]], value: int) -> torch.Tensor:
    """(B, longest) filled up with `value`."""
    rows = [torch.tensor(sequence) for sequence in sequences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def cut(order: Sequence[int], lengths: np.ndarray, budget: int) -> list[list[int]]:
    """Cut a row order into batches of at most `budget` padded tokens (and at least one row)."""
    batches: list[list[int]] = []
    longest = 0
    for row in order:
        longest = max(longest, int(lengths[row]))
        if batches and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest = int(lengths[row])
    return batches


class Stream:
    """An endless, repeatable sequence of batches over a set of examples of one task."""

    def __init__(
        self,
        task: str,
        examples: Sequence[Example],
        *,
        pad_id: int,
        budget: int,
        seed: int,
        classes: Sequence[Set[str]] = (),
    ) -> None:
        """Plan nothing yet; `budget` is in padded tokens a batch, `classes` the labels of each
        example, which only drawing by label needs."""
        self.task, self.examples, self.classes = task, examples, classes
        self.pad_id, self.budget, self.seed = pad_id, budget, seed
        self.lengths = np.array([length(e) for e in examples])
        self.plan = lru_cache(maxsize=2)(self._plan)
        self._starts = [0]  # first step of each epoch planned so far

    def _plan(self, epoch: int) -> list[list[int]]:
        """Row indices of each batch of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.examples))
        blurred = self.lengths * generator.uniform(1 - JITTER, 1 + JITTER, len(self.lengths))
        pools = [order[i : i + POOL] for i in range(0, len(order), POOL)]
        batches = [
            batch
            for pool in pools
            for batch in cut(pool[np.argsort(blurred[pool])].tolist(), self.lengths, self.budget)
        ]
        return [batches[i] for i in generator.permutation(len(batches))]

    def steps(self, epochs: int) -> int:
        """Steps in so many epochs; it varies a little with the order of the rows."""
        while len(self._starts) <= epochs:
            self._starts.append(self._starts[-1] + len(self.plan(len(self._starts) - 1)))
        return self._starts[epochs]

    def epoch(self, step: int) -> int:
        """The epoch a step belongs to."""
        while self._starts[-1] <= step:
            self.steps(len(self._starts))
        return bisect_right(self._starts, step) - 1

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        epoch = self.epoch(step)
        rows = self.plan(epoch)[step - self.steps(epoch)]
        return self.gather(rows)

    def gather(self, rows: Sequence[int]) -> Batch:
        """A batch of these rows."""
        return collate([self.examples[row] for row in rows], self.pad_id)

    def draw(self, step: int) -> tuple[str, Batch]:
        """The task, and the batch of a step."""
        return self.task, self.batch(step)


class Mixture:
    """Streams taking turns, each as often as its share says.

    After n steps a stream has had its share of n turns, give or take one or two; nothing is drawn
    by chance. An epoch is an epoch of the stream that sets the pace.
    """

    def __init__(
        self, streams: Sequence[Stream], shares: Sequence[float], *, pace: int, seed: int
    ) -> None:
        """`shares` add up to anything; `pace` is the place of a stream."""
        self.streams, self.seed = streams, seed
        self.shares = np.array(shares) / sum(shares)
        self.pace = pace
        self._turns: list[tuple[int, int]] = []  # of each step so far: stream, its own step
        self._taken = np.zeros(len(streams), dtype=int)
        self._paced = [0]  # turns of the pacing stream before each step

    def _turn(self, step: int) -> tuple[int, int]:
        while len(self._turns) <= step:
            owed = self.shares * (len(self._turns) + 1) - self._taken
            chosen = int(owed.argmax())
            self._turns.append((chosen, int(self._taken[chosen])))
            self._taken[chosen] += 1
            self._paced.append(int(self._taken[self.pace]))
        return self._turns[step]

    def steps(self, epochs: int) -> int:
        """Steps until the pacing stream has gone through so many epochs."""
        wanted, step = self.streams[self.pace].steps(epochs), 0
        while self._paced[step] < wanted:
            self._turn(step)
            step += 1
        return step

    def epoch(self, step: int) -> int:
        """The epoch a step belongs to."""
        self._turn(step)
        return self.streams[self.pace].epoch(self._paced[step])

    def draw(self, step: int) -> tuple[str, Batch]:
        """The task, and the batch of a step."""
        stream, own = self._turn(step)
        return self.streams[stream].draw(own)


def in_proportion(streams: Sequence[Stream], seed: int) -> Stream | Mixture:
    """All streams once in an epoch; one stream as it is."""
    if len(streams) == 1:
        return streams[0]
    steps = [stream.steps(1) for stream in streams]
    return Mixture(streams, steps, pace=steps.index(max(steps)), seed=seed)


@dataclass(frozen=True)
class Streams:
    """What a paradigm may draw from."""

    target: Stream | Mixture | None
    """The target's labelled rows, if there are any; in the source stage, the sources'."""
    target_name: str = "target"
    """The target's name."""
    sources: Mapping[str, Stream] = field(default_factory=dict)
    """Each source's labelled rows, by the domain's name."""
    text: Stream | None = None
    """The target's text, without labels."""


class Together:
    """A plan that draws from one stream in each role at every step; the first sets the pace."""

    def __init__(self, **roles: Stream | Mixture) -> None:
        """`Together(target=stream)`"""
        self.roles = roles
        self.first = next(iter(roles.values()))
        self.seed = self.first.seed

    def steps(self, epochs: int) -> int:
        """Steps in so many epochs."""
        return self.first.steps(epochs)

    def epoch(self, step: int) -> int:
        """The epoch a step belongs to."""
        return self.first.epoch(step)

    def draw(self, step: int) -> Draw:
        """{"target": ("reviews", batch)}"""
        return {role: stream.draw(step) for role, stream in self.roles.items()}


def in_order(
    examples: Sequence[Example], *, pad_id: int, budget: int, beside: int = 0
) -> Iterator[tuple[list[int], Batch]]:
    """All examples once, longest first, with their indices: for prediction, which takes so many
    tokens beside each one's own."""
    lengths = np.array([length(e) + beside for e in examples])
    for rows in cut(np.argsort(-lengths, kind="stable").tolist(), lengths, budget):
        yield rows, collate([examples[row] for row in rows], pad_id)
