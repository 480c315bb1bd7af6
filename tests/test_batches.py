from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tasks.learning import batches
from tasks.learning.batches import Stream, collate, cut, in_order
from tasks.learning.contracts import IGNORED, Batch, Example


def examples(count: int = 60, longest: int = 40) -> list[Example]:
    """Each example is one number, its own, repeated: which rows a batch holds can be read off."""
    chance = random.Random(0)
    return [
        Example(input_ids=[n] * chance.randint(2, longest), labels=n % 2) for n in range(1, count)
    ]


def stream(seed: int = 13, budget: int = 64, count: int = 60) -> Stream:
    return Stream("reviews", examples(count), pad_id=0, budget=budget, seed=seed)


def rows_of(batch: Batch) -> list[int]:
    return batch["input_ids"][:, 0].tolist()


def same(left: Batch, right: Batch) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_collate() -> None:
    """Rows are padded to the longest, masked where padded, and carry one label each."""
    batch = collate(
        [
            Example(input_ids=[101, 2307, 102], labels=1),
            Example(input_ids=[101, 102], labels=0),
        ],
        pad_id=9,
    )
    assert batch["input_ids"].tolist() == [[101, 2307, 102], [101, 102, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert {t.dtype for t in batch.values()} == {torch.int64}


def test_collate_sequences() -> None:
    """A label for each token is padded with the label that is not scored."""
    batch = collate(
        [
            Example(input_ids=[101, 7, 102], labels=[IGNORED, 4, IGNORED]),
            Example(input_ids=[101], labels=[5]),
        ],
        pad_id=0,
    )
    assert batch["labels"].tolist() == [[-100, 4, -100], [5, -100, -100]]


def test_collate_unlabelled() -> None:
    """Without labels on every row there are none on the batch."""
    assert "labels" not in collate(
        [Example(input_ids=[1], labels=1), Example(input_ids=[2])], pad_id=0
    )


@pytest.mark.parametrize("budget", [40, 64, 500])
def test_budget(budget: int) -> None:
    """A batch has at most `budget` padded tokens, and no row is left over that would have fit."""
    plenty = stream(budget=budget)
    for step in range(plenty.steps(3)):
        assert plenty.batch(step)["input_ids"].numel() <= budget
    padded = sum(plenty.batch(step)["input_ids"].numel() for step in range(plenty.steps(1)))
    tokens = int(plenty.lengths.sum())
    assert tokens <= padded < 1.4 * tokens


def test_what_is_written_counts() -> None:
    """The tokens of a reply are computed as well as those that are read; a word's tag is none."""
    reply = Example(input_ids=[1, 2], labels=[3, 4, 5])
    tagged = Example(input_ids=[1, 2], labels=[0, IGNORED], words=[1, 0])
    lengths = [batches.length(one) for one in (reply, tagged, Example(input_ids=[1], labels=1))]
    assert lengths == [5, 2, 1]


def test_longer_than_the_budget() -> None:
    """A row longer than the budget is a batch of its own, not lost."""
    assert cut([0, 1, 2], np.array([3, 70, 3]), 64) == [[0], [1], [2]]
    assert cut([0, 2, 1], np.array([3, 70, 3]), 64) == [[0, 2], [1]]


@pytest.mark.parametrize("pool", [4096, 16])
def test_every_row_once_an_epoch(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch shows each row once, in one pool or many."""
    monkeypatch.setattr(batches, "POOL", pool)
    plenty = stream()
    for epoch in range(3):
        steps = range(plenty.steps(epoch), plenty.steps(epoch + 1))
        shown = Counter(row for step in steps for row in rows_of(plenty.batch(step)))
        assert shown == Counter(range(1, 60))


def test_epoch_of_a_step() -> None:
    """`steps` and `epoch` agree on where each epoch begins."""
    plenty = stream()
    for epoch in range(3):
        assert plenty.epoch(plenty.steps(epoch)) == epoch
        assert plenty.epoch(plenty.steps(epoch + 1) - 1) == epoch


def test_pure_in_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new stream gives the same batch at step N and builds no other to get there."""
    first = stream()
    last = first.steps(3) - 1
    expected = [first.batch(step) for step in range(last + 1)]

    built: list[int] = []
    real: Callable[..., Batch] = batches.collate
    monkeypatch.setattr(batches, "collate", lambda *a: built.append(1) or real(*a))
    assert same(stream().batch(last), expected[last])
    assert len(built) == 1


def test_any_order() -> None:
    """Steps can be asked for in any order and again."""
    forward, backward = stream(), stream()
    steps = range(forward.steps(3))
    expected = [forward.batch(step) for step in steps]
    assert all(same(backward.batch(step), expected[step]) for step in reversed(steps))


def test_epochs_differ() -> None:
    """Rows meet others in the next epoch, and under another seed."""

    def company(of: Stream, epoch: int) -> set[frozenset[int]]:
        steps = range(of.steps(epoch), of.steps(epoch + 1))
        return {frozenset(rows_of(of.batch(step))) for step in steps}

    first, other = (stream(seed, budget=256, count=200) for seed in (13, 14))
    assert not company(first, 0) & company(first, 1)
    assert not company(first, 0) & company(other, 0)


def test_global_generators_do_not_matter() -> None:
    """No state outside the stream decides what it shows."""
    np.random.seed(1)
    torch.manual_seed(1)
    first = stream().batch(5)
    np.random.seed(2)
    torch.manual_seed(2)
    assert same(first, stream().batch(5))


def test_in_order() -> None:
    """For prediction every example is shown once, under its own index, within the budget."""
    shown: dict[int, list[int]] = {}
    given = examples()
    widths = []
    for indices, batch in in_order(given, pad_id=0, budget=64):
        assert batch["input_ids"].numel() <= 64
        widths.append(batch["input_ids"].shape[1])
        for index, ids, mask in zip(
            indices, batch["input_ids"], batch["attention_mask"], strict=True
        ):
            assert index not in shown
            shown[index] = ids[mask.bool()].tolist()
    assert shown == {i: example["input_ids"] for i, example in enumerate(given)}
    assert widths == sorted(widths, reverse=True)  # the largest first: memory fails at once
    for rows, batch in in_order(given, pad_id=0, budget=64, beside=20):
        assert len(rows) * (batch["input_ids"].shape[1] + 20) <= 64 or len(rows) == 1
