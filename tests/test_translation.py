"""Translation: scores are sacreBLEU's, from counts that add up."""

from __future__ import annotations

import random
from typing import Any, get_args

import numpy as np
import pytest

from tasks.learning.applications import overlap
from tasks.learning.applications.scripts import Script, written_in
from tasks.learning.applications.translation import Translation
from tests.tiny import OTHER, THINGS

TRANSLATION = Translation(kind="translation")


def texts(count: int, chance: random.Random) -> list[tuple[str, str]]:
    """Something written and what was expected: alike, in part, not at all, or nothing."""
    pairs = []
    for _ in range(count):
        expected = chance.choices([*THINGS, *OTHER, "Çölü", "قوش"], k=chance.randrange(1, 12))
        written = list(expected)
        if chance.random() < 0.5:
            chance.shuffle(written)
        pairs.append((" ".join(written[: chance.randrange(len(written) + 1)]), " ".join(expected)))
    return pairs


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_scores_agree_with_sacrebleu(count: int) -> None:
    """Summed over rows, as a whole corpus has it; short texts and empty ones too."""
    from sacrebleu.metrics import BLEU, CHRF

    chance = random.Random(count)
    for _ in range(20):
        pairs = texts(count, chance)
        written, expected = [w for w, _ in pairs], [e for _, e in pairs]
        totals = TRANSLATION.statistics(
            [{"text": text} for text in written],
            [{"text": "x", "translation": text} for text in expected],
        ).sum(0)
        found = TRANSLATION.scores(totals)
        assert found["bleu"] == pytest.approx(BLEU().corpus_score(written, [expected]).score)
        whole = CHRF(word_order=2).corpus_score(written, [expected]).score
        assert found["chrf"] == pytest.approx(whole)


@pytest.mark.parametrize(
    ("script", "words", "written", "expected"),
    [("Chinese", "zh", "我们明天去北京", "我们今天去北京"), ("Thai", "char", "วันนี้ร้อน", "วันนี้หนาว")],
)
def test_scripts_without_blanks(script: Any, words: str, written: str, expected: str) -> None:
    """BLEU of them is of characters, or a sentence would be one word; its signature says so."""
    from sacrebleu.metrics import BLEU

    application = TRANSLATION.model_copy(update={"script": script})
    totals = application.statistics([{"text": written}], [{"text": "x", "translation": expected}])
    whole = BLEU(tokenize=words).corpus_score([written], [[expected]]).score
    assert application.scores(totals.sum(0))["bleu"] == pytest.approx(whole)
    assert whole > 0
    assert f"tok:{words}|" in application.signatures()["bleu"]


def test_scores_of_many_samples() -> None:
    """(samples, K) totals give (samples,) scores: what the bootstrap asks for."""
    pairs = texts(30, random.Random(0))
    counts = np.array([[*overlap.bleu_counts(*p), *overlap.chrf_counts(*p)] for p in pairs])
    drawn = np.stack([counts[:20].sum(0), counts[10:].sum(0)])
    found = TRANSLATION.scores(drawn)
    for i in range(2):
        alone = TRANSLATION.scores(drawn[i])
        assert [float(found[name][i]) for name in found] == pytest.approx(
            [float(value) for value in alone.values()]
        )


def test_the_floor_is_a_copy() -> None:
    """The text as it is, whatever was seen; it is right where both languages say the same."""
    rows = [
        {"text": "GNOME 47", "translation": "GNOME 47"},
        {"text": "Cancel", "translation": "İptal"},
    ]
    found = TRANSLATION.trivial([], rows)
    assert found == [{"text": "GNOME 47"}, {"text": "Cancel"}]
    assert TRANSLATION.correct(found, rows).tolist() == [True, False]


def row(text: str, translation: str | None, split: str | None = None) -> dict[str, Any]:
    return {"text": text, "translation": translation, "split": split, "file": "a", "row": 7}


def test_translations_that_are_the_text() -> None:
    """Some are, such as names; where most are, the columns were mixed up."""
    same = [row("Bayo", "Bayo"), row("Lagos", "Lagos"), row("Open", "Aç")]
    assert list(TRANSLATION.doubts(same[1:])) == []
    (said,) = TRANSLATION.doubts(same)
    assert "the text itself in 2 of 3 rows; are the columns right?" in said
    assert list(TRANSLATION.doubts([row("Open", None, "unlabelled")] * 3)) == []


def test_translations_in_another_script() -> None:
    """Figures and names are of none; half in another script will do, more will not."""
    uyghur = Translation(kind="translation", script="Arabic")
    right, other = row("Open", "ئاچ"), row("Open", "Aç")
    assert list(uyghur.doubts([right, other, row("5 %", "5 %"), right])) == []
    (said,) = uyghur.doubts([other, right, other, row("7", "8")])
    assert said == (
        "2 of 4 texts to be written have no letter of the Arabic script, such as row 7 of a: 'Aç'"
    )


@pytest.mark.parametrize(
    ("text", "script"),
    [("Привет", "Cyrillic"), ("你好", "Chinese"), ("かな", "Japanese"), ("한국", "Korean"),
     ("नमस्ते", "Devanagari"), ("Ọjọ́", "Latin"), ("ئاچ", "Arabic"), ("γ", "Greek")],
)  # fmt: skip
def test_scripts(text: str, script: Any) -> None:
    """By Unicode's names of the letters."""
    assert written_in(text, script)
    assert written_in("% 12", script) is None
    others = [one for one in get_args(Script) if one != script and written_in(text, one)]
    assert others == (["Japanese"] if script == "Chinese" else [])


def test_signatures() -> None:
    """What a reader needs to compare the scores with others."""
    found = TRANSLATION.signatures()
    assert found["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "nw:2" in found["chrf"]
