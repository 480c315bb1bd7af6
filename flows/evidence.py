"""What a promotion found, as a table for a terminal and for the Prefect UI."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from flows.console import console
from tasks.history import Entry

NAMES = ("champion", "challenger")

MARKUP = re.compile(r"[\\`*_\[\]!|#]")
"""What Markdown reads as more than itself."""


def rows(said: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(role, version, score, interval)"""
    report = said["report"]
    for role in NAMES:
        if role in report["systems"]:
            found = report["systems"][role][report["metric"]]
            interval = f"{found['low']:.3f} – {found['high']:.3f}"
            yield role, said[role], f"{found['value']:.3f}", interval


def sentences(said: Mapping[str, Any]) -> Iterator[str]:
    """The verdict, every gate, and the rows."""
    yield f"Verdict: {said['verdict']['decision']}: {said['verdict']['reason']}"
    for gate in said["gates"]:
        yield f"Gate {passed(gate)}: {gate['name']}: {gate['found']}"
    yield tested(said)


def passed(gate: Mapping[str, Any]) -> str:
    """passed or shut"""
    return "passed" if gate["passed"] else "shut"


def tested(said: Mapping[str, Any]) -> str:
    """The rows that both were asked."""
    looks = f", which decided {said['looks']} time(s) before" if said["looks"] else ""
    less = f", less {said['left_out']} that the champion learned from" if said["left_out"] else ""
    return f"{said['report']['rows']} frozen test rows, {said['frozen'][:16]}{less}{looks}"


def outcome(entry: Entry) -> str:
    """What was decided."""
    champion = f"version {entry.champion}" if entry.champion else "none"
    by = "" if entry.by == "graft" else f" by {entry.by}"
    return (
        f"Version {entry.version} is {entry.decision}{by}; champion: {champion}. Entry "
        f"{entry.number} of its history, evidence in MLflow run {entry.run}"
    )


def markdown(said: Mapping[str, Any], run: str, address: str | None) -> str:
    """The evidence for the Prefect UI: the verdict, the scores, the gates, and where the rest is.

    Args:
        said: the evidence.
        run: the MLflow run that has all of it.
        address: where MLflow's UI shows `details(said)`, if it has an address.
    """
    metric, confidence = said["report"]["metric"], said["report"]["confidence"]
    against = f" against version {said['champion']}" if said["champion"] else ""
    what = "Rows that change" if said["champion"] else "Every answer"
    name = f"`{details(said)}`"
    link = f"[{name}]({address})" if address else name
    lines = [
        f"**{plain(said['model'])}**, version {said['challenger']}{against}: "
        f"**{said['verdict']['decision']}**, {plain(said['verdict']['reason'])}",
        "",
        f"| | version | {metric} | {confidence:.0%} interval |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows(said)),
        "",
        *(
            f"- **{plain(gate['name'])}** {passed(gate)}: {plain(gate['found'])}"
            for gate in said["gates"]
        ),
        f"- {tested(said)}",
        f"- {what}: {link} in MLflow run `{run}`",
    ]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """A text that Markdown shows as it is: a label or a name is no markup."""
    return MARKUP.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def details(said: Mapping[str, Any]) -> str:
    """The artifact of the MLflow run that shows most: the rows that change, or every answer."""
    return "flips.html" if said["champion"] else "predictions"


def print_evidence(result: Mapping[str, Any]) -> None:
    """The scores, the verdict and what was decided."""
    said = result["evidence"]
    report = said["report"]
    drawn = Table(title=f"{report['metric']} on {report['rows']} frozen test rows")
    for heading in ("", "version", report["metric"], f"{report['confidence']:.0%} interval"):
        drawn.add_column(heading)
    for row in rows(said):
        drawn.add_row(*row)
    console.print(drawn)
    for sentence in (*sentences(said), outcome(Entry(**result["entry"]))):
        console.print(sentence, soft_wrap=True, markup=False)


def history_table(model: str, entries: Sequence[Entry]) -> Table:
    """A line a decision, the last one at the end."""
    drawn = Table(title=f"History of {model}")
    for heading in ("", "when", "what", "version", "champion", "by", "because"):
        drawn.add_column(heading)
    for entry in entries:
        drawn.add_row(
            str(entry.number),
            entry.at.replace("T", " ").removesuffix("Z"),
            entry.decision.replace("_", " "),
            entry.version,
            entry.champion or "none",
            escape(entry.by),
            escape(entry.because),
        )
    return drawn
