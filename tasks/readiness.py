"""What only the split rows and the backbone can tell, refused before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.config import Pipeline
from tasks.errors import ConfigError, DataRejected
from tasks.learning.contracts import Paradigm, Unfit
from tasks.training import Origin, start


def rows(pipeline: Pipeline, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse a training that has no rows to learn from, or none to watch for early stopping.

    Args:
        pipeline: its trainings.
        counts: domain -> train, validation, test and unlabelled -> how many rows it has.

    Raises:
        DataRejected: rows are missing.
        ConfigError: there are rows, and none is kept to watch.
    """
    sources = {name: counts[name] for name in pipeline.sources}
    own = counts[pipeline.target_name]
    listed = ", ".join(sources)
    if not any(found["train"] for found in sources.values()):
        if pipeline.source_training:
            raise DataRejected(
                f"{listed}: no labelled rows for source_training; raise `labelled`, or set "
                "source_training to null"
            )
        if pipeline.paradigm.reads_sources:
            raise DataRejected(
                f"{listed}: {pipeline.paradigm.kind} needs a source with labelled rows; raise "
                "`labelled`"
            )
    if pipeline.paradigm.reads_text and not own["train"] + own["unlabelled"]:
        raise DataRejected(f"{pipeline.target_name}: no text to adapt to")
    source_stopping = pipeline.source_training and pipeline.source_training.early_stopping
    if source_stopping and not any(found["validation"] for found in sources.values()):
        raise ConfigError(
            f"{listed}: source_training.early_stopping has no validation rows to watch; raise "
            "split.validation"
        )
    stopping = pipeline.training.early_stopping
    if stopping and stopping.watch == "labels" and not own["validation"]:
        raise ConfigError(
            f"{pipeline.target_name}: early_stopping has no validation rows to watch; raise "
            "split.validation"
        )
    if stopping and stopping.watch == "text" and not own["unlabelled"]:
        raise DataRejected(
            f"{pipeline.target_name}: there is no unlabelled text for early_stopping to watch; "
            "lower `labelled`, or watch labels"
        )


def backbone(pipeline: Pipeline, origin: Origin) -> None:
    """Prepare every coming training once, so that none is refused after the others are done.

    Raises:
        ConfigError: a paradigm does not go with the backbone (too many layers to freeze), or texts
            may be longer than it takes.
    """
    last = pipeline.paradigm.adaptation
    paradigms: list[Paradigm] = [pipeline.paradigm, *([last] if last else [])]
    for paradigm in paradigms:
        try:
            paradigm.prepare(start(pipeline, origin))
        except Unfit as error:
            raise ConfigError(f"paradigm: {error}") from error
