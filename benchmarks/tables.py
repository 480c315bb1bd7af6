"""The cells of a benchmark as Markdown, and that Markdown in RESULTS.md and in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

Cell = dict[str, Any]
RESULTS = Path(__file__).parent / "RESULTS.md"
PLAIN = "plain fine-tuning"
"""Fine-tuning of the whole backbone on the target's labels alone: what every paradigm is compared
with where a fine_tuning cell of the same target and seed is there. A paradigm's own `target_only`
freezes what the paradigm freezes."""


def tables(cells: Sequence[Cell]) -> str:
    """A line a paradigm, over all its cells; then a line a cell."""
    if not cells:
        return "No cell is there yet."
    metric = cells[0]["report"]["metric"]
    baselines = sorted({name for cell in cells for name in cell["report"]["gains"]})
    compared = [*baselines, *([PLAIN] if plain(cells) else [])]
    lines = [
        f"| paradigm | settings | cells | {metric} | "
        + " | ".join(f"gain over {name}" for name in compared)
        + " |",
        "|---|---|---|---|" + "---|" * len(compared),
    ]
    for way, settings, code in ways(cells):
        own = [c for c in cells if (c["way"], c["settings"], c["code"]) == (way, settings, code)]
        gains = [over_cells(gains_over(name, own, cells)) for name in compared]
        found = mean(score(cell, "transfer") for cell in own)
        lines.append(f"| {way} | {settings} | {len(own)} | {found:.4f} | {' | '.join(gains)} |")
    return "\n".join([*lines, "", *each(cells, baselines, metric)])


def ways(cells: Sequence[Cell]) -> list[tuple[str, str, str]]:
    """Paradigm, settings and code version of each line, in the order they were first run."""
    return list(dict.fromkeys((c["way"], c["settings"], c["code"]) for c in cells))


def each(cells: Sequence[Cell], baselines: Sequence[str], metric: str) -> Iterator[str]:
    """A line a cell: the scores of all systems, and the transfer's gain with its interval."""
    first = next((name for name in ("target_only", "source_only") if name in baselines), None)
    gain = f" gain over {first} |" if first else ""
    yield f"| target | paradigm | settings | seed | {' | '.join(baselines)} | {metric} |{gain}"
    yield "|---|---|---|---|" + "---|" * (len(baselines) + 1 + bool(first))
    for cell in cells:
        others = " | ".join(
            f"{score(cell, name):.3f}" if name in cell["report"]["systems"] else "–"
            for name in baselines
        )
        line = f"| {cell['target']} | {cell['way']} | {cell['settings']} | {cell['seed']} | "
        line += f"{others} | {interval(cell['report']['systems']['transfer'][metric], '.3f')} |"
        if first:
            found = cell["report"]["gains"].get(first)
            line += f" {interval(found, '+.3f') if found else '–'} |"
        yield line


def interval(found: dict[str, float], form: str) -> str:
    """0.812 (0.790 to 0.831)"""
    return f"{found['value']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def score(cell: Cell, system: str) -> float:
    """A system's score in a cell."""
    report = cell["report"]
    return float(report["systems"][system][report["metric"]]["value"])


def plain(cells: Sequence[Cell]) -> dict[tuple[str, int], float]:
    """(target, seed) -> the score of plain fine-tuning, as the newest fine_tuning cell has it."""
    return {
        (cell["target"], cell["seed"]): score(cell, "target_only")
        for cell in cells
        if cell["way"] == "fine_tuning" and "target_only" in cell["report"]["systems"]
    }


def gains_over(name: str, own: Sequence[Cell], cells: Sequence[Cell]) -> list[float]:
    """The gain of each cell that has this baseline."""
    if name == PLAIN:
        known = plain(cells)
        found = [(score(c, "transfer"), known.get((c["target"], c["seed"]))) for c in own]
        return [value - other for value, other in found if other is not None]
    gains = (cell["report"]["gains"].get(name) for cell in own)
    return [gain["value"] for gain in gains if gain]


def over_cells(gains: Sequence[float]) -> str:
    """The mean gain, and its bootstrap interval over the cells; the cells are what varies."""
    if not gains:
        return "–"
    if len(gains) < 3:
        return f"{mean(gains):+.4f}"
    drawn = np.random.default_rng(0).choice(gains, (10_000, len(gains))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{mean(gains):+.4f} ({low:+.4f} to {high:+.4f})"


def write(name: str, text: str, results: Path | None = None) -> None:
    """Put a set's tables between its two marks in RESULTS.md; without them, at the end."""
    results = results or RESULTS
    start, end = f"<!-- {name}: -->", f"<!-- :{name} -->"
    whole = results.read_text(encoding="utf-8")
    if start not in whole:
        whole = f"{whole.rstrip()}\n\n## {name}\n\n{start}\n{end}\n"
    before, _, rest = whole.partition(start)
    _, _, after = rest.partition(end)
    results.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def track(name: str, text: str, cells: Sequence[Cell]) -> None:
    """A run in the set's MLflow experiment with the tables, and each line's mean score."""
    from tasks.tracking import connect

    client = connect()
    experiment = client.get_experiment_by_name(f"benchmark-{name}")
    if experiment is None:
        return  # nothing was run here, so there is nothing to stand beside
    run = client.create_run(experiment.experiment_id, run_name="tables").info.run_id
    client.log_text(run, text, "tables.md")
    for way, settings, code in ways(cells):
        own = [c for c in cells if (c["way"], c["settings"], c["code"]) == (way, settings, code)]
        label = f"{way} {settings}".strip().replace("=", " ").replace(",", " ")
        client.log_metric(run, label, mean(score(cell, "transfer") for cell in own))
    client.set_terminated(run)
