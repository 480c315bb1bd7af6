"""Dialogue: what has been said becomes what is said next.

    perplexity = exp(−mean log p(token of the response | context, tokens before it))

a word: the same sum of logarithms over the number of words, so that networks with other sub-words
compare; the end of the response, a token, is no word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tasks.learning.applications import overlap
from tasks.learning.applications.generation import Generation, Message
from tasks.learning.applications.summarization import best, signature
from tasks.learning.applications.words import words
from tasks.learning.contracts import IGNORED, Batch, Prediction, Row, Rule

if TYPE_CHECKING:
    from tasks.learning.learner import Learner

ASSISTANT = "assistant"
"""The model's role in chat templates, and so in the data made for them."""
UNKNOWN = {"nats": np.nan, "tokens": np.nan, "words": np.nan}
"""How likely the expected response was to who gives no probabilities."""


class Dialogue(Generation):
    """Respond to what has been said. Of a context that is too long the last turns are read."""

    metrics: ClassVar[tuple[str, ...]] = ("bleu", "rougeL")
    floor: ClassVar[str] = "majority"
    reads: ClassVar[Literal["start", "end"]] = "end"

    kind: Literal["dialogue"]
    """The application."""
    speaker: str | None = None
    """Who is to be played: turns that begin with this name and a colon are the model's own, all
    others its partner's. null: every second turn is the model's, counted back from the last, which
    is its partner's. A chat template is told so; without one, turns are read a line each as they
    are."""
    partner: str | None = None
    """Who it speaks with, where that is always the same: a chat template is given its turns without
    this name, other names stay. In `graft chat` it is who types."""

    @property
    def metric(self) -> str:
        """BLEU decides unless the pipeline says otherwise."""
        return "bleu"

    @property
    def fields(self) -> Mapping[str, Rule]:
        """`context`, a turn a line, and its `response`"""
        return {"context": Rule(turns=True), "response": Rule()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """`context`"""
        return ("context",)

    @property
    def request(self) -> tuple[str, ...]:
        """`context`"""
        return ("context",)

    def read(self, row: Row) -> str:
        """The context."""
        return str(row["context"])

    def reply(self, row: Row) -> str:
        """The response."""
        return str(row["response"])

    def messages(self, text: str) -> list[Message]:
        """The prefix as the system's, then the turns; those of one side that follow each other are
        one message, since templates ask for turns."""
        turns = [turn for turn in text.split("\n") if turn.strip()] or [""]
        if self.speaker is None:
            roles = [("user", "assistant")[(len(turns) - i) % 2 == 0] for i in range(len(turns))]
        else:
            own = f"{self.speaker}:"
            roles = ["assistant" if turn.startswith(own) else "user" for turn in turns]
            turns = [turn.removeprefix(own).strip() for turn in turns]
        if self.partner is not None:
            turns = [turn.removeprefix(f"{self.partner}:").strip() for turn in turns]
        told = [{"role": "system", "content": self.prefix}] if self.prefix else []
        sides = groupby(zip(roles, turns, strict=True), key=lambda pair: pair[0])
        return [
            *told,
            *({"role": role, "content": "\n".join(t for _, t in said)} for role, said in sides),
        ]

    def doubts(self, rows: Sequence[Row]) -> Iterator[str]:
        """Responses that only repeat the context, a speaker who never spoke before, or a role that
        nobody was said to play."""
        yield from super().doubts(rows)
        long = [row["context"] for row in rows if "\n" in row["context"]]
        named = f"{self.speaker or ASSISTANT}:"
        spoke = sum(any(t.startswith(named) for t in one.split("\n")) for one in long)
        if self.speaker is None and 2 * spoke > len(long):
            yield (
                f"turns begin with '{named}', the role of a model; say 'speaker: {ASSISTANT}', and "
                "'partner: user' where that is who it speaks with, of all data sets alike"
            )
        if self.speaker is not None and long and not spoke:
            yield (
                f"no turn of any context begins with '{named}', the application's speaker; the "
                f"first begins '{long[0][:40]}'"
            )

    def samples(self) -> Sequence[str]:
        """A conversation that the model begins, one that its partner does, and none."""
        own = "" if self.speaker is None else f"{self.speaker}: "
        return [f"{own}Hello.\nGood day.", "Good day.", ""]

    def predict(self, learner: Learner, task: str, batch: Batch) -> list[Prediction]:
        """{"text": "From which account?"}, and, where the response is known, how unlikely it was:
        {"nats": 41.2, "tokens": 12, "words": 9} of its first `maximum_new_tokens`."""
        written = super().predict(learner, task, batch)
        if "labels" not in batch:
            return written
        return [
            {**one, **told}
            for one, told in zip(written, surprise(learner, task, batch), strict=True)
        ]

    def columns(self, row: Row, prediction: Prediction) -> dict[str, Any]:
        """{"response": "From which account?"}"""
        return {"response": prediction["text"]}

    def trivial(self, seen: Sequence[Row], asked: Sequence[Row]) -> list[Prediction]:
        """The most frequent response."""
        ((text, _),) = Counter(self.reply(row) for row in seen).most_common(1)
        return [{"text": text} for _ in asked]

    def statistics(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N, 10 + 2 + 3): what BLEU counts, ROUGE-L and a one to count it, nats, tokens, words."""
        found = []
        for prediction, row in zip(predictions, rows, strict=True):
            said, expected = prediction["text"], self.reply(row)
            told = [prediction.get(name, UNKNOWN[name]) for name in UNKNOWN]
            found.append(
                [
                    *overlap.bleu_counts(said, expected, self.tokenizer),
                    best(said, [expected])[2],
                    1,
                    *told,
                ]
            )
        return np.array(found, dtype=float)

    def scores(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """Corpus BLEU and mean ROUGE-L, from 0 to 100; perplexity a token and a word, not defined
        where no probabilities are known."""
        rouge, count, nats, tokens, words = np.moveaxis(totals[..., overlap.BLEU :], -1, 0)
        return {
            "bleu": overlap.bleu(totals[..., : overlap.BLEU]),
            "rougeL": 100 * rouge / count,
            "perplexity": np.exp(nats / tokens),
            "word_perplexity": np.exp(nats / words),
        }

    def signatures(self) -> dict[str, str]:
        """sacreBLEU's of BLEU, and ROUGE's."""
        return {"bleu": overlap.signatures(self.tokenizer)["bleu"], "rougeL": signature()}

    def traits(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """distinct-1 and distinct-2: different words, and pairs of words, in a hundred of all
        (Li et al. 2016). Low: always the same is said."""
        said = [words(prediction["text"]) for prediction in predictions]
        single = [word for one in said for word in one]
        pairs = [pair for one in said for pair in pairwise(one)]
        return {
            "distinct1": 100 * len(set(single)) / max(1, len(single)),
            "distinct2": 100 * len(set(pairs)) / max(1, len(pairs)),
        }


def surprise(learner: Learner, task: str, batch: Batch) -> list[dict[str, float]]:
    """Of each row's labels: −log p of all together, and how many tokens and words they are."""
    from torch.nn import functional

    logits, labels = learner(task, batch).logits, batch["labels"]
    nats = functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    ).sum(1)  # (B, T) -> (B,)
    known = [row[row != IGNORED] for row in labels]
    texts = learner.tokenizer.batch_decode(known, skip_special_tokens=True)
    return [
        {"nats": float(n), "tokens": len(ids), "words": max(1, len(words(text)))}
        for n, ids, text in zip(nats, known, texts, strict=True)
    ]
