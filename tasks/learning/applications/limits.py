"""How long a text may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tasks.learning.contracts import Example

if TYPE_CHECKING:
    from transformers import BatchEncoding


def too_long(tokens: int, limit: int | None, setting: str = "maximum_tokens") -> Iterator[str]:
    """The complaint about texts that a backbone has not places enough for."""
    if limit is not None and tokens > limit:
        yield f"application.{setting} is {tokens}, but the backbone takes at most {limit}"


def mark_cut(examples: Sequence[Example], encoded: BatchEncoding) -> None:
    """Mark those of which a tokenizer left something out."""
    assert encoded.encodings is not None  # a fast one's, as all are here
    for example, found in zip(examples, encoded.encodings, strict=True):
        if found.overflowing:
            example["cut"] = True
