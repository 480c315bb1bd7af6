"""A champion that is watched, and the text of its domain.

The reference are the test rows of the run that made it: text of its domain that it was not trained
on, as fresh text is not either. Its own training rows would lie elsewhere for it, and would have no
unknown words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks import promote, registry, store, tracking
from tasks.champion import champion_version
from tasks.config import Pipeline
from tasks.errors import DataRejected
from tasks.learning.contracts import Row
from tasks.load import resolve
from tasks.redaction import redacted
from tasks.split import text_key
from tasks.training import read_rows

SERVED = "served"
"""In the place of a file: what `graft serve --log` kept."""
FEWEST = 50
"""Of either side: fewer do not tell drift from chance."""
RECORDED = 5000
"""Rows of training text that a run records, for their words."""
TEXT = "text.parquet"
"""What a run records of them."""


@dataclass(frozen=True)
class Watch:
    """A champion, and text of its domain."""

    model: str
    version: str
    run: str
    """The MLflow run that made it."""
    pipeline: Pipeline
    """As that run recorded it."""
    reference: Sequence[Row]
    """Its frozen test rows, what a prediction needs of them; one of each group, see `apart`."""
    tested: int
    """Test rows that there are."""
    trained: Sequence[Row]
    """The target's training text, or a sample of it."""


def write_text(pipeline: Pipeline, parts: store.Output, folder: Path) -> Path:
    """text.parquet: the target's training text, unlabelled too, without labels; some of it, if it
    is long. No text that is a test row's: the monitor's reference."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    inputs, name = pipeline.application.inputs, pipeline.target_name
    by_set = {s: read_rows(parts.file(f"{name}/{s}.parquet")) for s in ("train", "unlabelled")}
    tested = {text_key(row, inputs) for row in read_rows(parts.file(f"{name}/test.parquet"))}
    rows = [
        row for found in by_set.values() for row in found if text_key(row, inputs) not in tested
    ]
    kept = drawn(rows, RECORDED, pipeline.seed)
    table = {field: [row[field] for row in kept] for field in inputs}
    pq.write_table(
        pa.table(table, schema=pa.schema((f, pa.string()) for f in inputs)), folder / TEXT
    )
    return folder / TEXT


def drawn(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """So many of the rows at most, in their order."""
    import numpy as np

    if len(rows) <= count:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    return [rows[i] for i in sorted(chosen)]


def apart(rows: Sequence[Row], groups: Sequence[str | None], seed: int) -> list[Row]:
    """One row of each group, and all that are of none.

    The test takes rows for independent of each other. Sentences of one review are alike: what they
    have in common is told from other reviews as if it were another domain.
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(rows))
    first = {groups[i]: i for i in order if groups[i] is not None}.values()
    chosen = {*first, *(i for i in order if groups[i] is None)}
    return [rows[i] for i in sorted(chosen)]


def watched(model: str, text: str) -> Watch:
    """The champion of a model, and its domain's text.

    What `graft serve --log` kept is redacted, so its reference is, too.

    Raises:
        SourceUnavailable: no such model, no champion, or what its run recorded is gone.
        DataRejected: too few test rows.
        TrackingError: MLflow does not answer.
    """
    version, _ = champion_version(model)
    run = registry.run_of(model, version)
    pipeline = resolve(tracking.recorded_configuration(run)[1])
    inputs = pipeline.application.inputs
    told = redacted if text == SERVED else str
    tested, trained = (
        read_rows(promote.recorded(model, version, name)) for name in ("test.parquet", TEXT)
    )
    own, known = (
        [{field: told(row[field]) for field in inputs} for row in side]
        for side in (tested, trained)
    )
    reference = apart(own, [row["group"] for row in tested], pipeline.seed)
    if len(reference) < FEWEST:
        raise DataRejected(
            f"model '{model}': version {version} has {len(reference)} test rows (or groups) to "
            f"compare with; at least {FEWEST} tell drift from chance"
        )
    return Watch(model, version, run, pipeline, reference, len(tested), known)
