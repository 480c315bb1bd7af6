"""How far apart source and target lie before the transfer and after it, by their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks import store
from tasks.config import Pipeline
from tasks.learning.contracts import Row
from tasks.training import read_rows

if TYPE_CHECKING:
    from tasks.learning.learner import Learner

ROWS = 500
"""So many rows of each domain are looked at."""


@dataclass(frozen=True)
class Shift:
    """One moment's features of both sides."""

    source: np.ndarray
    """(N, H)"""
    target: np.ndarray
    """(N', H)"""
    distance: float
    """Proxy A-distance: 0, a linear classifier cannot tell them apart, to 2, it always can."""


def measure(
    pipeline: Pipeline, split: store.Output, backbones: Mapping[str, Path]
) -> dict[str, Shift]:
    """The shift as each of the backbones sees it.

    Args:
        pipeline: whose domains.
        split: their rows.
        backbones: "before" and "after" -> a transformers folder.
    """
    from tasks.learning.alignment import proxy_a_distance
    from tasks.learning.learner import accelerator, new_learner

    found = {}
    for moment, folder in backbones.items():
        learner = new_learner(folder, pipeline.tasks).to(accelerator())
        source = np.concatenate([_features(pipeline, learner, split, n) for n in pipeline.sources])
        target = _features(pipeline, learner, split, pipeline.target_name)
        found[moment] = Shift(source, target, proxy_a_distance(source, target, pipeline.seed))
    return found


def _features(pipeline: Pipeline, learner: Learner, split: store.Output, domain: str) -> np.ndarray:
    """(N, H) pooled features of a domain's training text, at most ROWS rows spread over it."""
    from tasks.learning.prediction import pooled

    rows: list[Row] = [
        row
        for part in ("train", "unlabelled")
        for row in read_rows(split.file(f"{domain}/{part}.parquet"))
    ]
    chosen: Sequence[Row] = rows[:: max(1, -(-len(rows) // ROWS))]
    return pooled(learner, pipeline.task(domain), chosen)
