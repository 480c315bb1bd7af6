"""Whether a registered model is whole, after a restore, an upgrade or a move.

Its history is gone through, and every version that serves, may serve or did is loaded and scored on
its frozen test rows: a damaged file, a missing one and a library that computes otherwise all show
in the score.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks import promote, registry, tracking
from tasks.champion import load_champion
from tasks.errors import GraftError, LedgerError
from tasks.history import champions
from tasks.ledger import Ledger
from tasks.load import resolve
from tasks.training import read_rows


@dataclass(frozen=True)
class Check:
    """What was found of one part of a model."""

    model: str
    part: str
    """history, or version 3."""
    whole: bool
    told: str


def checks(model: str) -> Iterator[Check]:
    """Look at the history of a model, then at each of its versions that counts, newest first.

    Raises:
        SourceUnavailable: no such model.
        TrackingError: MLflow does not answer.
    """
    ledger, entries = Ledger(model), []
    try:
        entries = ledger.verify()
        yield Check(model, "history", True, f"{len(entries)} entries and their evidence are whole")
    except LedgerError as error:
        yield Check(model, "history", False, str(error))
    named = {str(version) for version in registry.registered_model(model).aliases.values()}
    for version in sorted(named.union(champions(entries)), key=int, reverse=True):
        if registry.registered(model, version) is None:
            yield Check(model, f"version {version}", True, "was deleted from the registry")
        else:
            yield scored(model, version)


def scored(model: str, version: str) -> Check:
    """Whether a version scores on its frozen test rows as its run recorded, within the margin."""
    part = f"version {version}"
    try:
        score, recorded, metric, margin = scores(model, version)
    except (GraftError, KeyError, OSError, ValueError) as error:
        return Check(model, part, False, " ".join(str(error).split()))
    told = f"{metric} {score:.4f} on its test rows, {recorded:.4f} when it was made"
    return Check(model, part, abs(score - recorded) <= margin, told)


def scores(model: str, version: str) -> tuple[float, float, str, float]:
    """A version's score now and when it was made, in which metric, and what does not matter.

    Raises:
        SourceUnavailable: it cannot be loaded, or what its run recorded is gone.
    """
    import torch

    from tasks.learning.prediction import predict

    run = registry.run_of(model, version)
    pipeline = resolve(tracking.recorded_configuration(run)[1])
    rows = read_rows(promote.recorded(model, version, "test.parquet"))
    loaded = load_champion(model, version, "float32").model
    torch.manual_seed(pipeline.seed)  # where words are drawn
    answers = predict(loaded.learner, loaded.application.kind, rows, supervised=True)
    metric = pipeline.metric
    score = loaded.application.scores(loaded.application.statistics(answers, rows).sum(0))[metric]
    return float(score), tracking.run_values(run)[f"test_{metric}"], metric, pipeline.margin
