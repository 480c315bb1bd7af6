"""Systems compared on the same rows: scores with intervals, gains, and where each is good or not.

All systems are resampled alike, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.config import Pipeline
from tasks.learning.contracts import Prediction, Row

TRANSFER = "transfer"


def compare(
    pipeline: Pipeline,
    predictions: Mapping[str, Sequence[Prediction]],
    rows: Sequence[Row],
    subject: str = TRANSFER,
) -> dict[str, Any]:
    """Scores with bootstrap intervals; all systems resampled alike, so differences are paired.

    Rows of one group (the sentences of a review) are drawn together, since they are not
    independent: a cluster bootstrap.

    Args:
        pipeline: the application, the metric and the resampling.
        predictions: by system, one a row.
        rows: the test rows.
        subject: the system whose gains over the others are wanted.
    """
    from tasks.learning import statistics

    application, evaluation = pipeline.application, pipeline.evaluation
    systems: dict[str, dict[str, Any]] = {}
    labels, samples, right = {}, {}, {}
    units = np.array([row["group"] or row["id"] for row in rows])
    counts = {name: application.statistics(found, rows) for name, found in predictions.items()}
    for name, predicted in predictions.items():
        systems[name], samples[name] = resampled_scores(pipeline, counts[name], units)
        labels[name] = application.by_label(counts[name].sum(0))
        right[name] = application.correct(predicted, rows)

    def against(baseline: str) -> dict[str, Any]:
        ours, theirs = systems[subject], systems[baseline]
        drawn = {
            metric: samples[subject][metric] - samples[baseline][metric]
            for metric in ours
            if metric in theirs
        }
        differences = {
            metric: statistics.interval(
                ours[metric]["value"] - theirs[metric]["value"], values, evaluation.confidence
            )
            for metric, values in drawn.items()
        }
        gain = differences[pipeline.metric]
        return {
            **vars(gain),
            "metrics": {metric: vars(found) for metric, found in differences.items()},
            # Two one-sided tests at 1 - confidence each: Schuirmann 1987.
            "narrow": vars(
                statistics.interval(
                    gain.value, drawn[pipeline.metric], 2 * evaluation.confidence - 1
                )
            ),
            "p_value": statistics.paired_p_value(drawn[pipeline.metric]),
            # McNemar's test takes rows to be independent, so it says nothing about grouped ones.
            "mcnemar_p_value": None
            if len(set(units)) < len(rows)
            else statistics.mcnemar(right[baseline], right[subject]),
            "significant": gain.excludes_zero,
        }

    return {
        "metric": pipeline.metric,
        "confidence": evaluation.confidence,
        "resamples": evaluation.resamples,
        "rows": len(rows),
        "units": len(set(units)),
        "systems": systems,
        "labels": labels,
        "signatures": application.signatures(),
        "traits": {name: application.traits(found) for name, found in predictions.items()},
        "sliced": application.sliced(pipeline.metric),
        "slices": slices(pipeline, counts, rows, units, subject),
        "classes": classes(pipeline, counts, rows, units, subject),
        "gains": {name: against(name) for name in predictions if name != subject},
    }


def resampled_scores(
    pipeline: Pipeline, counts: np.ndarray, units: np.ndarray
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Metric -> its value and interval, and metric -> (R,) its values on the resamples.

    A metric that is not defined, such as the perplexity of a baseline that gives no probabilities,
    is left out.
    """
    from tasks.learning import statistics

    application, evaluation = pipeline.application, pipeline.evaluation
    grouped = statistics.by_unit(counts, units)
    drawn = statistics.resampled(grouped, application.scores, evaluation.resamples, pipeline.seed)
    values = {metric: float(value) for metric, value in application.scores(counts.sum(0)).items()}
    return {
        metric: vars(statistics.interval(value, drawn[metric], evaluation.confidence))
        for metric, value in values.items()
        if np.isfinite(value)
    }, drawn


def slices(
    pipeline: Pipeline,
    counts: Mapping[str, np.ndarray],
    rows: Sequence[Row],
    units: np.ndarray,
    subject: str,
) -> dict[str, list[dict[str, Any]]]:
    """Thirds of the rows by what the application measures of each; see `part`.

    {"length": [{"name": "2 to 9", "rows": 190, "systems": {"transfer": {"value": …}}, …}, …]}
    """
    measured = [pipeline.application.measures(row) for row in rows]
    found: dict[str, list[dict[str, Any]]] = {}
    for name in measured[0]:
        values = np.array([one[name] for one in measured])
        bounds = np.quantile(values, [1 / 3, 2 / 3])
        third = np.searchsorted(bounds, values)
        found[name] = [
            {
                "name": f"{values[third == one].min():.6g} to {values[third == one].max():.6g}",
                **part(pipeline, counts, units, third == one, subject),
            }
            for one in np.unique(third)
        ]
    return found


def classes(
    pipeline: Pipeline,
    counts: Mapping[str, np.ndarray],
    rows: Sequence[Row],
    units: np.ndarray,
    subject: str,
) -> list[dict[str, Any]]:
    """The rows that are examples of each label; see `part`.

    [{"name": "negative", "rows": 190, "systems": {"transfer": {"value": …}}, …}, …]
    """
    of = [pipeline.application.classes(row) for row in rows]
    chosen = {
        label: np.array([label in own for own in of]) for label in pipeline.application.labels
    }
    return [
        {"name": label, **part(pipeline, counts, units, mask, subject)}
        for label, mask in chosen.items()
        if mask.any()
    ]


def part(
    pipeline: Pipeline,
    counts: Mapping[str, np.ndarray],
    units: np.ndarray,
    chosen: np.ndarray,
    subject: str,
) -> dict[str, Any]:
    """Each system on some of the rows, by `Application.sliced`, and the subject's gains there."""
    from tasks.learning import statistics

    metric = pipeline.application.sliced(pipeline.metric)
    scored = {
        system: resampled_scores(pipeline, own[chosen], units[chosen])
        for system, own in counts.items()
    }
    values = {system: found[metric] for system, (found, _) in scored.items()}
    return {
        "rows": int(chosen.sum()),
        "systems": values,
        "gains": {
            system: vars(
                statistics.interval(
                    values[subject]["value"] - values[system]["value"],
                    scored[subject][1][metric] - drawn[metric],
                    pipeline.evaluation.confidence,
                )
            )
            for system, (_, drawn) in scored.items()
            if system != subject
        },
    }
