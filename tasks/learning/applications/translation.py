"""Translation: a text in one language becomes the same text in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from tasks.learning.applications import overlap
from tasks.learning.applications.generation import Generation
from tasks.learning.contracts import Prediction, Row, Rule


class Translation(Generation):
    """Write each text in another language."""

    metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    floor: ClassVar[str] = "copy"

    kind: Literal["translation"]
    """The application."""

    @property
    def metric(self) -> str:
        """BLEU decides unless the pipeline says otherwise."""
        return "bleu"

    @property
    def fields(self) -> Mapping[str, Rule]:
        """`text` and its `translation`"""
        return {"text": Rule(), "translation": Rule()}

    def reply(self, row: Row) -> str:
        """The translation."""
        return str(row["translation"])

    def columns(self, row: Row, prediction: Prediction) -> dict[str, Any]:
        """{"translation": "Ayarlar"}"""
        return {"translation": prediction["text"]}

    def trivial(self, seen: Sequence[Row], asked: Sequence[Row]) -> list[Prediction]:
        """Each text as it is: names, numbers and code are often the same in both languages."""
        return [{"text": row["text"]} for row in asked]

    def statistics(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N, 10 + 24) what BLEU and chrF++ count."""
        pairs = [(p["text"], self.reply(row)) for p, row in zip(predictions, rows, strict=True)]
        return np.array(
            [[*overlap.bleu_counts(*p, self.tokenizer), *overlap.chrf_counts(*p)] for p in pairs]
        )

    def signatures(self) -> dict[str, str]:
        """sacreBLEU's."""
        return overlap.signatures(self.tokenizer)

    def scores(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """Corpus BLEU and chrF++, both from 0 to 100."""
        return {
            "bleu": overlap.bleu(totals[..., : overlap.BLEU]),
            "chrf": overlap.chrf(totals[..., overlap.BLEU :]),
        }
