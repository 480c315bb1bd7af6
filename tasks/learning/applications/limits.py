"""How long a text may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.learning.backbone import Backbone


def too_long(maximum_tokens: int, backbone: Backbone) -> Iterator[str]:
    """The complaint about texts that the backbone has not places enough for."""
    limit = backbone.maximum_positions
    if limit is not None and maximum_tokens > limit:
        yield (
            f"application.maximum_tokens is {maximum_tokens}, but the backbone takes at most "
            f"{limit}"
        )
