"""Fresh text against the text that a champion was made for: both are what it makes of them, now.

report.json      measures with thresholds, shares of labels, rows
measures.png, embeddings.png, lengths.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import registry, tracking
from tasks.champion import load_champion
from tasks.errors import SourceUnavailable
from tasks.learning.applications.words import words
from tasks.learning.contracts import Prediction, Row
from tasks.watch import Watch, drawn

if TYPE_CHECKING:
    from tasks.learning.drift import Measure, Sample
    from tasks.learning.serving import ServedModel

ROWS = 2000
"""So many rows of each side are looked at, drawn with the pipeline's seed."""


@dataclass(frozen=True)
class Seen:
    """What is measured of both sides."""

    reference: Sample
    fresh: Sample


def look(watch: Watch, fresh: Sequence[Row]) -> Seen:
    """Ask the champion about both sides.

    Raises:
        SourceUnavailable: it cannot be loaded.
    """
    model = load_champion(watch.model, watch.version, "float32").model
    known = {word for row in watch.trained for word in words(written(row))}
    seed = watch.pipeline.seed
    sides = (drawn(rows, ROWS, seed) for rows in (watch.reference, fresh))
    return Seen(*(sample(model, rows, known) for rows in sides))


def written(row: Row) -> str:
    """Everything that is read of a row."""
    return "\n".join(row.values())


def sample(model: ServedModel, rows: Sequence[Row], known: set[str]) -> Sample:
    """What is measured of each row; what the model's answers have no place for is left out."""
    import numpy as np

    from tasks.learning.drift import Sample
    from tasks.learning.prediction import pooled, predict

    application, learner = model.application, model.learner
    said = [words(written(row)) for row in rows]
    predictions: Sequence[Prediction] = []
    if application.labels:
        predictions = predict(learner, application.kind, rows)
    sure = [application.confidence(one) for one in predictions]
    given = [application.given(one) for one in predictions]
    return Sample(
        features=pooled(learner, application.kind, rows),
        length=np.array([len(one) for one in said], dtype=float),
        unknown=np.array([sum(w not in known for w in one) for one in said], dtype=float),
        labels=np.array([[float(n in one) for n in application.labels] for one in given])
        if given
        else None,
        confidence=np.array(sure, dtype=float) if sure and None not in sure else None,
    )


def judge(watch: Watch, seen: Seen, rows: int, text: str, false_alarms: float) -> dict[str, Any]:
    """Everything that was found, as JSON: the content of report.json.

    Args:
        watch: the champion.
        seen: what is measured of both sides.
        rows: fresh rows that there are.
        text: where they came from.
        false_alarms: how often text like the reference may raise an alarm.
    """
    from tasks.learning.drift import compare, permutations

    measures = compare(seen.reference, seen.fresh, false_alarms, watch.pipeline.seed)
    names = {measure.name for measure in measures}
    return {
        "model": watch.model,
        "version": watch.version,
        "text": text,
        "drifted": any(measure.drifted for measure in measures),
        "false_alarms": false_alarms,
        "permutations": permutations(false_alarms),
        "rows": {
            "reference": len(seen.reference.length),
            "tested": watch.tested,
            "fresh": len(seen.fresh.length),
            "given": rows,
        },
        "measures": [told(measure) for measure in measures],
        "left_out": [name for name in ("labels", "confidence") if name not in names],
        "labels": shares(watch.pipeline.application.labels, seen),
        "kept": None,
    }


def told(measure: Measure) -> dict[str, Any]:
    """A measure as JSON."""
    return {**asdict(measure), "drifted": measure.drifted}


def shares(labels: Sequence[str], seen: Seen) -> dict[str, dict[str, float]]:
    """Label -> the share of rows it is given to, on either side."""
    if seen.reference.labels is None or seen.fresh.labels is None:
        return {}
    before, now = seen.reference.labels.mean(0), seen.fresh.labels.mean(0)
    return {
        label: {"reference": float(before[i]), "fresh": float(now[i])}
        for i, label in enumerate(labels)
    }


def log(watch: Watch, seen: Seen, report: Mapping[str, Any], folder: Path) -> str:
    """Report and pictures as an MLflow run beside the champion's; its id."""
    from tasks.drift_pictures import draw_all

    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    draw_all(folder, report, seen.reference, seen.fresh)
    values = {f"drift_{one['name']}": one["value"] for one in report["measures"]}
    values |= {f"threshold_{one['name']}": one["threshold"] for one in report["measures"]}
    values["drifted"] = float(report["drifted"])
    return tracking.log_beside(watch.run, named(watch.model, watch.version), folder, values)


def last(model: str, version: str) -> dict[str, Any] | None:
    """When a champion's text was last looked at, and whether it had drifted; None: never, or what
    made it is gone.

    Raises:
        TrackingError: MLflow does not answer.
    """
    try:
        made = registry.run_of(model, version)
    except SourceUnavailable:  # not a version of Graft's
        return None
    run = registry.looked_up(lambda client: client.get_run(made))
    if run is None:
        return None
    name, since = named(model, version), registry.registered_since(model)
    found = tracking.last_beside(str(run.info.experiment_id), name, since)
    return found and {"at": found[0], "drifted": bool(found[1].get("drifted"))}


def named(model: str, version: str) -> str:
    """What the MLflow runs of a champion's monitor are called."""
    return f"monitor {model}/{version}"
