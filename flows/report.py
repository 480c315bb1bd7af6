"""What a run found, as a table for a terminal and for the Prefect UI."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.console import console

NOTES = {
    "majority": "the most frequent answer",
    "copy": "the text as it is",
    "lead": "the text's first sentences",
    "source_only": "trained on the source, not on the target",
    "target_only": "trained on the target's labels alone",
    "transfer": "from the source to the target",
}

LOWER = {"perplexity", "word_perplexity"}
"""Metrics that are better the lower they are."""


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(system, score, interval, what it is)"""
    for name, scores in report["systems"].items():
        found = scores[report["metric"]]
        interval = f"{found['low']:.3f} – {found['high']:.3f}"
        yield name, f"{found['value']:.3f}", interval, NOTES[name]


def table(report: Mapping[str, Any]) -> Table:
    """The scores for a terminal."""
    drawn = Table(title=f"{report['metric']} on {report['rows']} frozen test rows")
    drawn.add_column("system")
    drawn.add_column(report["metric"], justify="right")
    drawn.add_column(f"{report['confidence']:.0%} interval", justify="center")
    drawn.add_column("what it is")
    for row in rows(report):
        drawn.add_row(*row, style="bold" if row[0] == "transfer" else None)
    return drawn


def markdown_table(report: Mapping[str, Any]) -> str:
    """The scores and gains for the Prefect UI."""
    lines = [
        f"| system | {report['metric']} | {report['confidence']:.0%} interval | |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows(report)),
        "",
        *(f"- {sentence}" for sentence in sentences(report)),
    ]
    return "\n".join(lines) + "\n"


def sentences(report: Mapping[str, Any]) -> Iterator[str]:
    """What the tables do not say."""
    for told in (gains, beside, cut, retention, shift, affinities):
        yield from told(report)


def cut(report: Mapping[str, Any]) -> Iterator[str]:
    """How many rows were too long to be read, or written, as they are."""
    found = [(report["cut"]["tested"], report["rows"], "test rows")]
    for name, one in report["cut"]["learned"].items():
        found.append((one["cut"], one["rows"], f"that {name} learned from"))
    if told := [f"{count} of {rows} {which}" for count, rows, which in found if count]:
        yield f"Too long for the application, and cut: {', '.join(told)}"


def retention(report: Mapping[str, Any]) -> Iterator[str]:
    """What is left of each source, where that is wanted."""
    for name, found in report["retention"].items():
        gain, before, after = found["gain"], found["before"]["value"], found["after"]["value"]
        interval = f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        yield (
            f"{name}: {report['metric']} {before:.3f} before the transfer, {after:.3f} after, "
            f"{gain['value']:+.3f} ({interval}) on {found['rows']} test rows of its own"
        )


def shift(report: Mapping[str, Any]) -> Iterator[str]:
    """How far apart source and target lay, where the paradigm moves them."""
    if report["shift"]:
        before, after = report["shift"]["before"], report["shift"]["after"]
        yield (
            f"Proxy A-distance of source and target: {before:.2f} before, {after:.2f} after "
            "(0: alike, 2: always told apart)"
        )


def affinities(report: Mapping[str, Any]) -> Iterator[str]:
    """One sentence a pair of tasks that were learned together."""
    for name, value in sorted(report["affinities"].items()):
        _, helper, helped = name.split("/")
        verb = "helped" if value > 0 else "hindered"
        yield f"{helper} {verb} {helped}: a small step for it changed the loss by {-value:+.2%}"


def gains(report: Mapping[str, Any]) -> Iterator[str]:
    """One sentence a baseline; the first is the transfer gain."""
    order = sorted(report["gains"], key=lambda name: name != "target_only")
    for name in order:
        gain = report["gains"][name]
        title = "Transfer gain" if name == "target_only" else "Gain"
        verdict = "significant" if gain["significant"] else "not significant"
        if gain["significant"] and gain["value"] < 0:
            verdict += ": negative transfer" if name == "target_only" else ": worse"
        exact = gain["mcnemar_p_value"]
        mcnemar = "" if exact is None else f", McNemar p = {exact:.2g}"
        yield (
            f"{title} over {name}: {gain['value']:+.3f} "
            f"({gain['low']:+.3f} to {gain['high']:+.3f}), "
            f"{verdict} (paired bootstrap p = {gain['p_value']:.4f}{mcnemar})"
        )


def beside(report: Mapping[str, Any]) -> Iterator[str]:
    """The transfer against `target_only` in the metrics that do not decide."""
    found = report["gains"].get("target_only", {}).get("metrics", {})
    for metric in (name for name in found if name != report["metric"]):
        own, alone = (
            report["systems"][name][metric]["value"] for name in ("transfer", "target_only")
        )
        lower = " (lower is better)" if metric in LOWER else ""
        difference = "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**found[metric])
        yield f"{metric}{lower}: {own:.3f}, target_only {alone:.3f}, difference {difference}"


def print_result(result: dict[str, Any], seconds: float) -> None:
    """The table, the gain, what was registered, and how to look closer."""
    from tasks.store import home

    report, registration = result["evaluation"], result["registration"]
    console.print(table(report))
    for sentence in sentences(report):
        console.print(sentence, soft_wrap=True)
    known = " (already registered)" if registration["cached"] else ""
    console.print(
        f"Registered: {registration['model']} version {registration['version']}, "
        f"alias challenger{known}. MLflow run {result['run']}. {seconds:.0f} s in all.",
        soft_wrap=True,
    )
    bin_folder = Path(sys.executable).parent
    near = (
        bin_folder.relative_to(Path.cwd()) if bin_folder.is_relative_to(Path.cwd()) else bin_folder
    )
    if "PREFECT_API_URL" not in os.environ:
        prefect_home = os.environ["PREFECT_HOME"]
        console.print(
            f"Prefect UI: PREFECT_HOME={prefect_home} {near}/prefect server start", soft_wrap=True
        )
    if "MLFLOW_TRACKING_URI" not in os.environ:
        store = f"sqlite:///{home() / 'mlflow.db'}"
        console.print(f"MLflow UI:  {near}/mlflow ui --backend-store-uri {store}", soft_wrap=True)
