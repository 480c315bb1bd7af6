"""What the monitor found, as a table for a terminal and for the Prefect UI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from flows.console import console
from flows.evidence import plain

NOTES = {
    "embeddings": "MMD²",
    "classifier": "AUC",
    "length": "largest gap",
    "unknown_words": "share more",
    "labels": "variation",
    "confidence": "largest gap",
}
"""Measure -> what it is."""
HEADINGS = ("measure", "value", "threshold", "p", "reference → fresh", "is")


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """(measure, value, threshold, p, what it compares, what it is)"""
    for one in report["measures"]:
        sides = [one["reference"], one["fresh"]]
        shown = "" if None in sides else " → ".join(f"{side:.3g}" for side in sides)
        mark = " DRIFT" if one["drifted"] else ""
        numbers = (f"{one['value']:.3g}", f"{one['threshold']:.3g}", f"{one['p']:.3f}{mark}")
        yield one["name"].replace("_", " "), *numbers, shown, NOTES[one["name"]]


def sentences(report: Mapping[str, Any]) -> Iterator[str]:
    """The verdict, the rows, and what was left out."""
    names = [one["name"].replace("_", " ") for one in report["measures"] if one["drifted"]]
    if report["drifted"]:
        yield f"DRIFT: {', '.join(names)} above threshold"
    else:
        yield "No drift: no measure is above its threshold"
    counts = report["rows"]
    fresh, tested = (
        f"{counts[n]}" if counts[n] == counts[of] else f"{counts[n]} of {counts[of]}"
        for n, of in (("fresh", "given"), ("reference", "tested"))
    )
    yield (
        f"{fresh} fresh rows against {tested} test rows of version {report['version']}; text like "
        f"the latter raises a false alarm {report['false_alarms']:.1%} of the time, all measures "
        "together"
    )
    for label, found in report["labels"].items():
        yield f"{label}: given to {found['reference']:.1%} of the rows, now to {found['fresh']:.1%}"
    if report["left_out"]:
        left = " and ".join(report["left_out"])
        yield f"Left out, since this model's answers have none: {left}"
    if report["kept"]:
        yield f"The fresh rows: {report['kept']}"


def markdown(report: Mapping[str, Any]) -> str:
    """For the Prefect UI."""
    lines = [
        f"**{plain(report['model'])}**, version {report['version']}: "
        f"**{'drift' if report['drifted'] else 'no drift'}**",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
        *(f"| {' | '.join(row)} |" for row in rows(report)),
        "",
        *(f"- {plain(sentence)}" for sentence in sentences(report)),
        f"- Pictures in MLflow run `{report['run']}`",
    ]
    return "\n".join(lines) + "\n"


def print_report(report: Mapping[str, Any]) -> None:
    """For a terminal."""
    drawn = Table(title=f"{report['model']} version {report['version']}: {report['text']}")
    for heading in HEADINGS:
        drawn.add_column(heading)
    for row in rows(report):
        drawn.add_row(*row)
    console.print(drawn)
    for sentence in (*sentences(report), f"Pictures: MLflow run {report['run']}"):
        console.print(sentence, soft_wrap=True, markup=False)
