"""Span corruption: L = -Σ log p(what is missing | the text with spans missing).

Raffel et al. 2020, section 3.1.4: 15% of the tokens, in spans of three on the average, each span
replaced by a sentinel of its own; what is to be written is each sentinel and its span, and a last
sentinel.

    text       Thank you for inviting me to your party last week .
    read       Thank you <extra_id_0> me to your party <extra_id_1> week . </s>
    written    <extra_id_0> for inviting <extra_id_1> last <extra_id_2> </s>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from tasks.learning.batches import collate, moved
from tasks.learning.contracts import Batch, Example, Unfit
from tasks.learning.learner import Learner
from tasks.learning.objectives.base import Unlabelled, likelihood

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPAN = 3
"""Tokens of a span, on the average."""
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(100))


@dataclass(frozen=True)
class Denoising(Unlabelled):
    """Spans from the text around them."""

    kind: ClassVar[Literal["encoder", "seq2seq", "causal"]] = "seq2seq"

    share: float
    """Of the tokens that are missing."""

    def prepare(self, learner: Learner) -> None:
        """Refuse a vocabulary without sentinels."""
        super().prepare(learner)
        if not sentinels(learner.tokenizer):
            raise Unfit("it needs a vocabulary with <extra_id_0>, <extra_id_1>, … as T5's has")

    def loss(self, learner: Learner, batch: Batch) -> Tensor:
        """() over all that is to be written."""
        marks, end = sentinels(learner.tokenizer), learner.tokenizer.eos_token_id
        texts = [
            ids[mask.bool()].tolist()
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        longest = learner.backbone.maximum_written
        examples = [corrupted(ids, self.share, marks, end) for ids in texts]
        for example in examples:
            example["labels"] = example["labels"][:longest]  # type: ignore[index]
        noisy = moved(collate(examples, learner.tokenizer.pad_token_id), batch["input_ids"].device)
        _, states = learner.backbone.decode(
            noisy["input_ids"], noisy["attention_mask"], noisy["labels"]
        )
        logits = learner.backbone.project(states)  # (B, T, V)
        return likelihood(logits.flatten(0, 1), noisy["labels"].flatten())


def sentinels(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, … as far as the vocabulary has them."""
    known = tokenizer.get_vocab()
    return [known[mark] for mark in SENTINELS if mark in known]


def corrupted(ids: Sequence[int], share: float, marks: Sequence[int], end: int) -> Example:
    """What is read and what is to be written of a text's ids, which the end may follow."""
    body = list(ids[:-1] if ids[-1:] == [end] else ids)
    read, written, after = [], [], 0
    missing = spans(len(body), share, len(marks))
    for mark, (start, stop) in zip(marks, missing, strict=False):
        read += [*body[after:start], mark]
        written += [mark, *body[start:stop]]
        after = stop
    last = marks[len(missing) : len(missing) + 1]
    return Example(input_ids=[*read, *body[after:], end], labels=[*written, *last, end])


def spans(length: int, share: float, most: int) -> list[tuple[int, int]]:
    """The places that are missing, from torch's generator, `most` at most: at least one token, and
    at least one stays before each span."""
    missing = min(max(round(length * share), 1), length - 1)
    if missing < 1:
        return []
    count = max(1, min(round(missing / SPAN), length - missing, most))
    found, place = [], 0
    for kept, gone in zip(parts(length - missing, count), parts(missing, count), strict=True):
        found.append((place + kept, place + kept + gone))
        place += kept + gone
    return found


def parts(total: int, count: int) -> list[int]:
    """`total` cut at random into `count` parts, none of them empty."""
    cuts = sorted((torch.randperm(total - 1)[: count - 1] + 1).tolist())
    return [after - before for before, after in zip([0, *cuts], [*cuts, total], strict=True)]
