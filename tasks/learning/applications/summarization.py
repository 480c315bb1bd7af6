"""Summarization: a long text becomes a short one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tasks.learning.applications.generation import Generation
from tasks.learning.applications.words import words
from tasks.learning.contracts import Prediction, Row, Rule

SENTENCE = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)\s+(?=[\"'(\[“‘]?[^\Wa-z_])|(?<=[。！？])\s*|\n+"
)
"""Where one sentence ends and the next begins: not after U.S. or Dr., nor before a small letter."""
KINDS = ("rouge1", "rouge2", "rougeL")


class Summarization(Generation):
    """Say each text shorter. Of a text that is too long the beginning is read."""

    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    floor: ClassVar[str] = "lead"

    kind: Literal["summarization"]
    """The application."""
    lead: Annotated[int, Field(gt=0)] = 1
    """The baseline that needs no learning is so many first sentences of the text."""

    @property
    def metric(self) -> str:
        """ROUGE-L decides unless the pipeline says otherwise."""
        return "rougeL"

    @property
    def fields(self) -> Mapping[str, Rule]:
        """`text` and its `summary`, or several, each of them right"""
        return {"text": Rule(), "summary": Rule(several=True)}

    def reply(self, row: Row) -> str:
        """The summary; of several, the first."""
        return summaries(row)[0]

    def columns(self, row: Row, prediction: Prediction) -> dict[str, Any]:
        """{"summary": "…"}"""
        return {"summary": prediction["text"]}

    def trivial(self, seen: Sequence[Row], asked: Sequence[Row]) -> list[Prediction]:
        """The first sentences: in news a summary that is hard to beat (See et al. 2017)."""
        sentences = ([s for s in SENTENCE.split(row["text"]) if s.strip()] for row in asked)
        return [{"text": " ".join(found[: self.lead]).strip()} for found in sentences]

    def statistics(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N, 4): each row's three scores, by the nearest of its summaries, and a one for it."""
        pairs = zip(predictions, rows, strict=True)
        return np.array([[*best(p["text"], summaries(row)), 1.0] for p, row in pairs])

    def signatures(self) -> dict[str, str]:
        """ROUGE's."""
        return dict.fromkeys(KINDS, signature())

    def measures(self, row: Row) -> dict[str, float]:
        """`length`, and `novelty`: the share of the summary's pairs of words that the text does not
        have (See et al. 2017)."""
        said, read = (pairs(text) for text in (self.reply(row), row["text"]))
        return {**super().measures(row), "novelty": len(said - read) / max(1, len(said))}

    def scores(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """ROUGE-1, ROUGE-2 and ROUGE-L: F1 of words, of pairs of words, and of the longest common
        subsequence, the mean over rows, from 0 to 100. Lin 2004."""
        return {name: 100 * totals[..., i] / totals[..., 3] for i, name in enumerate(KINDS)}


def summaries(row: Row) -> list[str]:
    """All that are right."""
    found: list[str] = row["summary"].split("\n")
    return found


def pairs(text: str) -> set[tuple[str, str]]:
    """All words that follow each other."""
    return set(pairwise(words(text)))


def best(written: str, expected: Sequence[str]) -> list[float]:
    """[ROUGE-1, ROUGE-2, ROUGE-L] from 0 to 1 against that which has the largest ROUGE-1, as
    Cachola et al. 2020 take it (their scripts/cal-rouge.py); words are stems, as in Google's
    implementation."""
    found = [scorer().score(one, written) for one in expected]
    chosen = max(found, key=lambda one: one["rouge1"].fmeasure)
    return [chosen[kind].fmeasure for kind in KINDS]


def signature() -> str:
    """Which ROUGE, with which words."""
    return (
        f"rouge-score:{version('rouge-score')}|words:any script|stemmer:yes|references:best rouge1"
    )


@lru_cache(maxsize=1)
def scorer() -> Any:
    """Google's, loaded when the first summary is scored. Its own words are those of a to z and
    digits alone; these are the same on such texts, and go on to other letters."""
    from nltk.stem.porter import PorterStemmer
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    stem = PorterStemmer().stem

    class Words(Tokenizer):
        """What RougeScorer asks for."""

        def tokenize(self, text: str) -> list[str]:
            """Stems of the words of more than three characters, as Google's."""
            return [stem(word) if len(word) > 3 else word for word in words(text)]

    return RougeScorer(KINDS, tokenizer=Words())
