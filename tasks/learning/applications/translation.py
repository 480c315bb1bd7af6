"""Translation: a text in one language becomes the same text in another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from tasks.learning.applications import overlap
from tasks.learning.applications.generation import Generation
from tasks.learning.applications.scripts import Script, written_in
from tasks.learning.contracts import Prediction, Row, Rule

CHARACTERS = {
    "Chinese": "zh",
    **dict.fromkeys(("Japanese", "Khmer", "Lao", "Myanmar", "Thai", "Tibetan"), "char"),
}
"""sacreBLEU's tokenizers of scripts that have no blanks between words."""


class Translation(Generation):
    """Write each text in another language."""

    metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    floor: ClassVar[str] = "copy"

    kind: Literal["translation"]
    """The application."""
    script: Script | None = None
    """The script that translations are written in. Where most have no letter of it, columns or
    files were mixed up, and nothing is trained. Of one without blanks between words BLEU counts
    characters. null: any."""

    @property
    def metric(self) -> str:
        """BLEU decides unless the pipeline says otherwise."""
        return "bleu"

    @property
    def words(self) -> str:
        """sacreBLEU's tokenizer of the translations."""
        return CHARACTERS.get(self.script or "", "13a")

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
            [[*overlap.bleu_counts(*p, self.words), *overlap.chrf_counts(*p)] for p in pairs]
        )

    def doubts(self, rows: Sequence[Row]) -> Iterator[str]:
        """Translations that are the text itself, or in another script."""
        yield from super().doubts(rows)
        if self.script is None:
            return
        told = [written_in(row["translation"] or "", self.script) for row in rows]
        if 2 * told.count(False) > len(told) - told.count(None):
            other = told.index(False)
            yield (
                f"{told.count(False)} of {len(rows)} translations have no letter of the "
                f"{self.script} script, such as row {rows[other]['row']} of {rows[other]['file']}: "
                f"'{rows[other]['translation'][:60]}'"
            )

    def signatures(self) -> dict[str, str]:
        """sacreBLEU's."""
        return overlap.signatures(self.words)

    def scores(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """Corpus BLEU and chrF++, both from 0 to 100."""
        return {
            "bleu": overlap.bleu(totals[..., : overlap.BLEU]),
            "chrf": overlap.chrf(totals[..., overlap.BLEU :]),
        }
