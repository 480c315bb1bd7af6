"""How much of a written text is in the expected one: BLEU and chrF++, from counts that add up.

    BLEU     = BP exp(mean over n = 1..4 of log pₙ), pₙ matches / n-grams written,
               BP = min(1, exp(1 − expected / written words)). Papineni et al. 2002
    chrF++   = F₂ of the mean precision and recall over characters n = 1..6 and words n = 1, 2.
               Popović 2017

Words and n-grams are sacreBLEU's (Post 2018), and so are both scores of a corpus.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

ORDERS = 4
BLEU = 2 + 2 * ORDERS
"""Counts BLEU needs: words written and expected, then matches and n-grams written by order."""
CHRF_ORDERS = 6 + 2
BETA = 2


@lru_cache
def metrics(words: str = "13a") -> tuple[Any, Any]:
    """sacreBLEU's, loaded when the first text is scored; `words` is its tokenizer."""
    from sacrebleu.metrics import BLEU as Bleu
    from sacrebleu.metrics import CHRF

    return Bleu(tokenize=words), CHRF(word_order=2)


def signatures(words: str = "13a") -> dict[str, str]:
    """{"bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0", "chrf": …}, as
    sacreBLEU asks to have them reported."""
    found = {}
    for name, metric in zip(("bleu", "chrf"), metrics(words), strict=True):
        metric.corpus_score(["a"], [["a"]])  # which tells it the number of references
        found[name] = str(metric.get_signature())
    return found


def bleu_counts(written: str, expected: str, words: str = "13a") -> list[int]:
    """[words written, words expected, 4 matches, 4 n-grams written]"""
    found = metrics(words)[0].corpus_score([written], [[expected]])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def bleu(totals: np.ndarray) -> np.ndarray:
    """(..., 10) counts -> (...) BLEU.

    Orders without a match count as half of one, the next as a quarter, and so on (smoothing "exp",
    sacreBLEU's choice; Chen and Cherry 2014).
    """
    written, expected = totals[..., 0], totals[..., 1]
    matches, said = totals[..., 2 : 2 + ORDERS], totals[..., 2 + ORDERS :]
    missed = (matches == 0) & (said > 0)
    halved = 0.5 ** missed.cumsum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(missed, halved / said, matches / said)
        brevity = np.exp(np.minimum(0, 1 - expected / written))
        score = 100 * brevity * np.exp(np.log(precision).mean(-1))
    # No n-gram of some order was written at all, or nothing that matches.
    known = (said > 0).all(-1) & (matches > 0).any(-1)
    return np.asarray(np.where(known, score, 0.0))


def chrf_counts(written: str, expected: str) -> list[int]:
    """[8 n-grams written, 8 expected, 8 matches]: of characters 1 to 6, of words 1 and 2."""
    metric = metrics()[1]
    (found,) = metric._extract_corpus_statistics([written], [[expected]])
    return [found[3 * order + part] for part in range(3) for order in range(CHRF_ORDERS)]


def chrf(totals: np.ndarray) -> np.ndarray:
    """(..., 24) counts -> (...) chrF++, over the orders that both texts have."""
    written, expected, matches = np.split(totals.astype(float), 3, axis=-1)
    both = (written > 0) & (expected > 0)
    orders = both.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(both, matches / written, 0).sum(-1) / orders
        recall = np.where(both, matches / expected, 0).sum(-1) / orders
        score = 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
    return np.asarray(np.nan_to_num(score))
