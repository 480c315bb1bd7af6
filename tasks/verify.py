"""Whether a registered model is whole, after a restore, an upgrade or a move.

Its history is gone through, and every version that serves, may serve or did is loaded and scored on
its frozen test rows: weights that are gone, damaged or another's, and a library that computes
otherwise, show there. A few rows of difference do not, and neither does what only a monitor reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks import promote, registry, split, tracking
from tasks.champion import load_champion
from tasks.errors import GraftError, LedgerError, SourceUnavailable, TrackingError
from tasks.history import Entry, champions
from tasks.ledger import Ledger
from tasks.load import resolve
from tasks.training import read_rows

TOLERANCE = 0.005
"""Of the highest score there is: another processor rounds otherwise."""


@dataclass(frozen=True)
class Check:
    """What was found of one part of a model."""

    model: str
    part: str
    """history, or version 3."""
    whole: bool | None
    """None: it is gone, which somebody may have wanted."""
    told: str


def checks(model: str) -> Iterator[Check]:
    """Look at the history of a model, then at each of its versions that counts, newest first.

    Raises:
        SourceUnavailable: no such model.
        TrackingError: MLflow does not answer.
    """
    ledger = Ledger(model)
    entries: list[Entry] = []
    try:
        entries = ledger.verify()
        yield Check(model, "history", True, f"{len(entries)} entries and their evidence are whole")
    except LedgerError as error:
        yield Check(model, "history", False, str(error))
    named = {str(version) for version in registry.registered_model(model).aliases.values()}
    for version in sorted(named.union(champions(entries)), key=int, reverse=True):
        if registry.registered(model, version) is None:
            yield Check(model, f"version {version}", None, "it is not in the registry any more")
        else:
            yield scored(model, version)


def scored(model: str, version: str) -> Check:
    """Whether a version scores on its frozen test rows as its run recorded."""
    part = f"version {version}"
    try:
        score, recorded, metric, best = scores(model, version)
    except TrackingError:
        raise
    except (GraftError, OSError, RuntimeError, ValueError) as error:
        return Check(model, part, False, " ".join(str(error).split()))
    told = f"{metric} {score:.4f} on its test rows, {recorded:.4f} when it was made"
    return Check(model, part, abs(score - recorded) <= TOLERANCE * best, told)


def scores(model: str, version: str) -> tuple[float, float, str, float]:
    """A version's score now and when it was made, in which metric, and the highest there is.

    Raises:
        SourceUnavailable: it cannot be loaded, or what its run recorded is gone.
    """
    import torch

    from tasks.learning.prediction import predict

    run = registry.run_of(model, version)
    pipeline = resolve(tracking.recorded_configuration(run)[1])
    rows = read_rows(promote.recorded(model, version, "test.parquet"))
    promote.recorded(model, version, split.LEARNED)  # which its next promotion reads
    recorded = tracking.run_values(run).get(f"test_{pipeline.metric}")
    if recorded is None:
        raise SourceUnavailable(f"MLflow run {run} has no value test_{pipeline.metric}")
    loaded = load_champion(model, version, "float32").model
    torch.manual_seed(pipeline.seed)  # where words are drawn
    application = loaded.application
    answers = predict(loaded.learner, application.kind, rows, supervised=True)
    score = application.scores(application.statistics(answers, rows).sum(0))[pipeline.metric]
    return float(score), recorded, pipeline.metric, application.best
