"""What a paired comparison of a challenger with the champion says, and so what becomes of it.

promote      the interval of the gain is above `minimum_gain`
equivalent   else, where the narrower interval, that of two one-sided tests, is within ± `margin`.
             Schuirmann 1987
reject       else: worse, not shown to be any better, or of too few rows to tell
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FEWEST = 20
"""Rows, or groups of them, that an interval by resampling needs: of ten it is too narrow."""
Decision = Literal["promote", "equivalent", "reject"]


@dataclass(frozen=True)
class Verdict:
    """A decision and why."""

    decision: Decision
    reason: str
    """One sentence with the numbers that led to it."""


def verdict(gain: Mapping[str, Any], minimum_gain: float, margin: float, units: int) -> Verdict:
    """Judge a gain.

    Args:
        gain: of the challenger over the champion: value, low, high, and `narrow`, as
            `tasks.comparison` has them.
        minimum_gain: what the interval must be above.
        margin: what does not matter.
        units: rows, or groups of rows, that were drawn.
    """
    narrow = gain["narrow"]
    found = f"gain {gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
    if units < FEWEST:
        return Verdict("reject", f"{found} is of {units} rows or groups; {FEWEST} are needed")
    if gain["low"] > minimum_gain:
        return Verdict("promote", f"{found} is above {minimum_gain:g}")
    if -margin < narrow["low"] and narrow["high"] < margin:
        within = f"{narrow['low']:+.4f} to {narrow['high']:+.4f}"
        return Verdict("equivalent", f"{found} is within {margin:g} of zero ({within})")
    if gain["high"] < 0:
        return Verdict("reject", f"{found} is below zero")
    if gain["low"] > 0:
        return Verdict("reject", f"{found} is not above {minimum_gain:g}")
    return Verdict("reject", f"{found} is not clear of zero, nor within {margin:g} of it")
