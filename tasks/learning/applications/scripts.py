"""In which script a text is written."""

from __future__ import annotations

import unicodedata
from typing import Literal

Script = Literal[
    "Arabic", "Armenian", "Bengali", "Chinese", "Cyrillic", "Devanagari", "Ethiopic", "Georgian",
    "Greek", "Gujarati", "Hebrew", "Japanese", "Kannada", "Khmer", "Korean", "Lao", "Latin",
    "Malayalam", "Myanmar", "Sinhala", "Tamil", "Telugu", "Thai", "Tibetan",
]  # fmt: skip
LETTERS = {
    "Chinese": ("CJK ",),
    "Japanese": ("HIRAGANA ", "KATAKANA ", "CJK "),
    "Korean": ("HANGUL ",),
}
"""How Unicode's names of a script's letters begin, where it is not the script's own name."""


def written_in(text: str, script: Script) -> bool | None:
    """Whether any letter of it is of this script; None: it has no letter at all."""
    plain = unicodedata.normalize("NFKC", text)  # letters of half or full width are their script's
    letters = [unicodedata.name(character, "") for character in plain if character.isalpha()]
    begin = LETTERS.get(script, (f"{script.upper()} ",))
    return any(name.startswith(begin) for name in letters) if letters else None
