"""Systems compared on the same rows: scores with intervals, gains, and where each is good or not.

All systems are resampled alike, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    all_rows = Compared(pipeline, counts, rows, units, subject)
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
        "slices": slices(all_rows),
        "by_label": by_label(all_rows),
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


@dataclass(frozen=True)
class Compared:
    """What every part of a comparison is made from."""

    pipeline: Pipeline
    counts: Mapping[str, np.ndarray]
    """System -> (N, K) statistics."""
    rows: Sequence[Row]
    units: np.ndarray
    """(N,) what each row is drawn with."""
    subject: str
    """The system whose gains are wanted."""

    @cached_property
    def measured(self) -> dict[str, np.ndarray]:
        """What the application measures of a row -> (N,) values."""
        found = [self.pipeline.application.measures(row) for row in self.rows]
        return {name: np.array([one[name] for one in found]) for name in found[0]}

    @cached_property
    def named(self) -> dict[str, np.ndarray]:
        """What the pipeline has rows scored apart by -> (N,) values; a row may have none."""
        (target,) = self.pipeline.target.values()
        return {
            name: np.array([str(row.get(name) or "none") for row in self.rows])
            for name in target.slice_columns.values()
        }

    @cached_property
    def strict(self) -> float:
        """The confidence of a part's gain, such that all parts together have that of a whole's:
        Bonferroni's correction."""
        parts = 3 * len(self.measured) + len(self.pipeline.application.labels)
        parts += sum(len(np.unique(values)) for values in self.named.values())
        return 1 - (1 - self.pipeline.evaluation.confidence) / max(1, parts)


def slices(all_rows: Compared) -> dict[str, list[dict[str, Any]]]:
    """Thirds of the rows by what the application measures of each, and the rows of each value of
    the pipeline's own slices, scored by `sliced`.

    {"length": [{"name": "2 to 9", "rows": 190, "systems": {"transfer": {"value": …}}, …}, …],
     "slice country": [{"name": "de", "rows": 25, …}, …]}
    """
    pipeline = all_rows.pipeline
    metric = pipeline.application.sliced(pipeline.metric)

    def scored(name: str, chosen: np.ndarray) -> dict[str, Any]:
        def scores(totals: np.ndarray) -> dict[str, np.ndarray]:
            return {metric: pipeline.application.scores(totals)[metric]}

        found = part(all_rows, chosen, scores)[metric]
        return {"name": name, "rows": int(chosen.sum()), **found}

    thirds = {
        measure: [
            scored(f"{values[chosen].min():.6g} to {values[chosen].max():.6g}", chosen)
            for chosen in in_thirds(values)
        ]
        for measure, values in all_rows.measured.items()
    }
    own = {
        name: [scored(str(value), values == value) for value in np.unique(values)]
        for name, values in all_rows.named.items()
    }
    return {**thirds, **own}


def in_thirds(values: np.ndarray) -> Iterator[np.ndarray]:
    """(N,) which rows are in each third by a value, of which equal ones may leave fewer."""
    third = np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values)
    yield from (third == one for one in np.unique(third))


def by_label(all_rows: Compared) -> list[dict[str, Any]]:
    """The F1 of each label that a test row has.

    [{"name": "negative", "rows": 190, "systems": {"transfer": {"value": …}}, …}, …]
    """
    application = all_rows.pipeline.application

    def f1(totals: np.ndarray) -> dict[str, np.ndarray]:
        found = [application.by_label(one) for one in np.atleast_2d(totals)]
        return {
            label: np.array([one[label]["f1"] for one in found]) for label in application.labels
        }

    of = [application.classes(row) for row in all_rows.rows]
    rows = {label: sum(label in own for own in of) for label in application.labels}
    found = part(all_rows, np.ones(len(of), dtype=bool), f1) if any(rows.values()) else {}
    return [
        {"name": label, "rows": count, **found[label]} for label, count in rows.items() if count
    ]


def part(
    all_rows: Compared,
    chosen: np.ndarray,
    scores: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> dict[str, dict[str, Any]]:
    """Each system on the chosen rows, and the subject's gains there.

    Score -> {"systems": {"transfer": {"value": …}}, "gains": {"target_only": {"value": …}}}, the
    second at the strict confidence.
    """
    from tasks.learning import statistics

    pipeline, subject = all_rows.pipeline, all_rows.subject
    resamples, confidence = pipeline.evaluation.resamples, pipeline.evaluation.confidence
    values, drawn = {}, {}
    for system, counts in all_rows.counts.items():
        grouped = statistics.by_unit(counts[chosen], all_rows.units[chosen])
        values[system] = {name: np.ravel(one)[0] for name, one in scores(grouped.sum(0)).items()}
        drawn[system] = statistics.resampled(grouped, scores, resamples, pipeline.seed)

    def gain(name: str, system: str) -> statistics.Interval:
        value = values[subject][name] - values[system][name]
        difference = drawn[subject][name] - drawn[system][name]
        return statistics.interval(value, difference, all_rows.strict)

    return {
        name: {
            "systems": {
                system: vars(statistics.interval(own[name], drawn[system][name], confidence))
                for system, own in values.items()
            },
            "gains": {system: vars(gain(name, system)) for system in values if system != subject},
        }
        for name in values[subject]
    }
