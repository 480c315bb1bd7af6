"""The heads that applications put on a backbone's features."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def new_head(width: int, outputs: int, hidden: int | None) -> nn.Module:
    """(..., `width`) -> (..., `outputs`): linear, or with one hidden layer of GELUs."""
    from torch import nn

    if hidden is None:
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))
