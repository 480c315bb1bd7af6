"""What a promotion must meet beside its verdict: each gate with its number and its limit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks import provenance, tracking
from tasks.config import Pipeline
from tasks.learning.contracts import Prediction, Row
from tasks.verdict import FEWEST


@dataclass(frozen=True)
class Gate:
    """A condition, what was found, and whether it is met."""

    name: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Measured:
    """A model's answers, how long each of some took by itself, and its size."""

    predictions: Sequence[Prediction]
    milliseconds: Sequence[float]
    megabytes: float


def gates(
    pipeline: Pipeline,
    run: str,
    report: Mapping[str, Any],
    challenger: Measured,
    rows: Sequence[Row],
    champion: str,
) -> list[Gate]:
    """Go through all of them.

    Args:
        pipeline: the challenger's; its `promotion` has the limits.
        run: the MLflow run that made the challenger.
        report: challenger and champion compared, see `tasks.comparison`.
        challenger: what was measured of it.
        rows: what it was asked.
        champion: what the report calls the one in production; it may not have it.
    """
    path = tracking.run_file(run, "evaluation/report.json")
    measured = json.loads(path.read_text(encoding="utf-8"))
    return [
        negative_transfer(measured),
        *source_drop(pipeline, measured),
        *worst_slice(pipeline, report, champion),
        calibration(pipeline, challenger.predictions, rows),
        latency(pipeline, challenger.milliseconds),
        size(pipeline, challenger.megabytes),
        data(pipeline, run),
        licences(pipeline),
    ]


def negative_transfer(measured: Mapping[str, Any]) -> Gate:
    """The challenger is not worse than training on the target alone, as its run measured it."""
    gain = measured["gains"].get("target_only")
    if gain is None:
        return Gate("no negative transfer", "not measured: the run had no target_only", True)
    return Gate("no negative transfer", f"{spread(gain)} over target_only", gain["high"] >= 0)


def source_drop(pipeline: Pipeline, measured: Mapping[str, Any]) -> Iterator[Gate]:
    """What the transfer still knows of each source, as its run measured it."""
    limit = pipeline.promotion.source_drop or 0
    for name in pipeline.retained:
        gain = measured["retention"][name]["gain"]
        found = f"{spread(gain)} by the transfer, may be {-limit:g}"
        yield Gate(f"source {name}", found, gain["value"] >= -limit)


def worst_slice(pipeline: Pipeline, report: Mapping[str, Any], champion: str) -> Iterator[Gate]:
    """No part of the rows loses much: its whole interval below zero, the gain below the limit.

    Parts of few rows say nothing, and are not judged.
    """
    limit = pipeline.promotion.worst_slice or pipeline.margin
    gains = {
        f"{measure} {part['name']}": part["gains"][champion]
        for measure, found in {**report["slices"], "label": report["by_label"]}.items()
        for part in found
        if champion in part["gains"] and part["rows"] >= FEWEST
    }
    if gains:
        # Of those that lose beyond doubt the worst, and if none does, the worst of all.
        sure = {name: gain for name, gain in gains.items() if gain["high"] < 0} or gains
        name = min(sure, key=lambda one: sure[one]["value"])
        worst = sure[name]
        passed = worst["high"] >= 0 or worst["value"] >= -limit
        found = f"{name}: {spread(worst)}, may be {-limit:g} beyond doubt"
        yield Gate("worst slice", found, passed)


def calibration(pipeline: Pipeline, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Gate:
    """The challenger is about as often right as it says."""
    from tasks.learning.statistics import calibration_error

    application, limit = pipeline.application, pipeline.promotion.calibration_error
    said = [application.confidence(prediction) for prediction in predictions]
    if None in said:
        found = f"not measured: {application.kind} says no confidence"
        return Gate("calibration error", f"{found}{limited(limit)}", limit is None)
    right = application.correct(predictions, rows)
    error = calibration_error(np.array(said, dtype=float), right)
    return Gate("calibration error", f"{error:.4f}{limited(limit)}", within(error, limit))


def latency(pipeline: Pipeline, milliseconds: Sequence[float]) -> Gate:
    """How long one text takes here."""
    half, most = np.quantile(milliseconds, [0.5, 0.95])
    limit = pipeline.promotion.milliseconds
    found = f"p50 {half:.1f}, p95 {most:.1f}{limited(limit)}; {provenance.hardware()}"
    return Gate("milliseconds a text", found, within(float(most), limit))


def size(pipeline: Pipeline, megabytes: float) -> Gate:
    """How large its files are."""
    limit = pipeline.promotion.megabytes
    return Gate("megabytes", f"{megabytes:.1f}{limited(limit)}", within(megabytes, limit))


def data(pipeline: Pipeline, run: str) -> Gate:
    """What the validation gate let pass, or nothing would have been trained."""
    values = tracking.run_values(run)
    if missing := [name for name in pipeline.domains if f"{name}_rejected" not in values]:
        found = f"not known: MLflow run {run} does not say how many of {', '.join(missing)}"
        return Gate("rows rejected", found, False)
    rejected = {name: values[f"{name}_rejected"] for name in pipeline.domains}
    read = {name: values[f"{name}_rows"] + rejected[name] for name in pipeline.domains}
    limit = pipeline.validation.reject_over
    found = ", ".join(f"{name} {rejected[name]:.0f} of {read[name]:.0f}" for name in read)
    passed = all(rejected[name] / read[name] <= limit for name in read)
    return Gate("rows rejected", f"{found}, may be {limit:.2%}", passed)


def licences(pipeline: Pipeline) -> Gate:
    """Whose they are is known of the weights and of all data."""
    said = {"backbone": pipeline.backbone.licence} if pipeline.backbone.path else {}
    said |= {name: domain.licence for name, domain in pipeline.domains.items()}
    missing = [name for name, licence in said.items() if not licence]
    found = f"unknown: {', '.join(missing)}" if missing else "all known"
    return Gate("licences", found, not missing or pipeline.promotion.licences == "any")


def spread(gain: Mapping[str, float]) -> str:
    """A gain with its interval."""
    return f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"


def limited(limit: float | None) -> str:
    """How a limit is shown."""
    return "" if limit is None else f", may be {limit:g}"


def within(value: float, limit: float | None) -> bool:
    """Whether a value keeps to its limit, if it has one."""
    return limit is None or value <= limit
