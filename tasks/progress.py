"""What a run tells its user while it works: stages as they start and end, steps as they are taken.

Everything goes through the logger `graft`, which Prefect forwards to its UI. A terminal that shows
a bar, and the tracker that sends metrics to MLflow, listen to each step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

logger = logging.getLogger("graft")
logger.setLevel(logging.INFO)  # a worker's runs, which no command sets up, tell as much
SECONDS_BETWEEN_LINES = 10.0

Listener = Callable[[str, int, int, Mapping[str, float]], None]
"""listener(subject, step, steps, values), called at every step."""

listeners: list[Listener] = []
_last_line = 0.0


def start(stage: str, subject: str, *, cached: bool) -> None:
    """A stage begins."""
    if not cached:
        logger.info("%-9s %s …", stage, subject)


def finish(stage: str, subject: str, seconds: float, *, cached: bool) -> None:
    """A stage has its output."""
    logger.info("%-9s %s: %s", stage, subject, "cached" if cached else f"done in {seconds:.1f} s")


def step(subject: str, number: int, total: int, values: Mapping[str, float]) -> None:
    """One step of many is done."""
    global _last_line
    for listener in listeners:
        listener(subject, number, total, values)
    now = time.monotonic()
    if number == total or now - _last_line >= SECONDS_BETWEEN_LINES:
        _last_line = now
        logger.info("%-9s step %d/%d  %s", subject, number, total, describe(values))


def describe(values: Mapping[str, float]) -> str:
    """The values worth a glance: loss 0.412, validation_macro_f1 0.834."""
    shown = {n: v for n, v in values.items() if "loss" in n or n.startswith("validation")}
    return ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
