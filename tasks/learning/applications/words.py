"""Words of a text in any script."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Literal

ALONE = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA")
"""How Unicode's names of characters begin whose words nothing parts."""


@lru_cache(maxsize=100_000)
def role(character: str) -> Literal["part", "word", "between"]:
    """Whether a character is part of a word, a word by itself, or between words."""
    if unicodedata.category(character)[0] not in "LMN":
        return "between"
    return "word" if unicodedata.name(character, "").startswith(ALONE) else "part"


def words(text: str) -> list[str]:
    """Runs of letters, their marks and digits, in small letters; Chinese characters and kana one by
    one. On ASCII as Google's ROUGE has them."""
    found, run = [], ""
    for character in text.lower():
        kind = role(character)
        if kind == "part":
            run += character
            continue
        found += [run] if run else []
        found += [character] if kind == "word" else []
        run = ""
    return [*found, run] if run else found
