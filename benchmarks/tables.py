"""The cells of a benchmark as Markdown and as a picture, in RESULTS.md and in MLflow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import GraftError
from tasks.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = dict[str, Any]
Place = tuple[str, str, str, str]
"""Target, seed, backbone and metric."""
MARKERS = "os^vD*P"
BASELINE_MARKERS = "_x+1234"
RESULTS = Path(__file__).parent / "RESULTS.md"
UNNAMEABLE = re.compile(r"[^\w.:/ -]+")
"""What MLflow does not take in a metric's name."""
PLAIN = "plain fine-tuning"
"""Fine-tuning of the whole backbone on the target's labels alone: what every paradigm is compared
with where `fine_tuning` was run as the set has it, on the same backbone, target and seed. A
paradigm's own `target_only` freezes what the paradigm freezes."""


def tables(cells: Sequence[Cell]) -> str:
    """A line a paradigm, over all its cells; then a line a cell."""
    if not cells:
        return "No cell is there yet."
    baselines = sorted({name for cell in cells for name in cell["report"]["gains"]})
    compared = [*baselines, *([PLAIN] if plain(cells) else [])]
    heads = [f"gain over {name}" for name in compared]
    lines = row("paradigm", "settings", "backbone", "code", "targets", "seeds", "score", *heads)
    for way, own in lines_of(cells).items():
        targets, seeds = ({cell[key] for cell in own} for key in ("target", "seed"))
        gains = [mean_gain(gains_over(name, own, cells)) for name in compared]
        found = mean(score(cell, "transfer") for cell in own)
        lines += row(*way, len(targets), len(seeds), f"{found:.4f}", *gains)[:1]
    written = [cell for cell in cells if not cell["report"]["labels"]["transfer"]]
    others = ["", *beside(written)] if written else []
    return "\n".join([*lines, "", *each(cells, baselines), *others])


def row(*values: object) -> list[str]:
    """A line of a table, and the rule that stands below it where it is the first."""
    return [f"| {' | '.join(map(str, values))} |", "|" + "---|" * len(values)]


def lines_of(cells: Sequence[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    """Paradigm, settings, backbone and code -> cells, in the order in which they were first run."""
    found: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        key = (cell["way"], cell["settings"], cell["backbone"], cell["code"])
        found.setdefault(key, []).append(cell)
    return found


def each(cells: Sequence[Cell], baselines: Sequence[str]) -> Iterator[str]:
    """A line a cell: the scores of all systems, and the transfer's gain with its interval."""
    first = next((name for name in ("target_only", "source_only") if name in baselines), None)
    gain = [f"gain over {first}"] if first else []
    yield from row("target", "paradigm", "settings", "seed", *baselines, "score", *gain)
    targets = list(dict.fromkeys(cell["target"] for cell in cells))
    for cell in sorted(cells, key=lambda cell: targets.index(cell["target"])):
        report = cell["report"]
        others = [
            f"{score(cell, name):.3f}" if name in report["systems"] else "–" for name in baselines
        ]
        own = interval(report["systems"]["transfer"][report["metric"]], ".3f")
        if first:
            found = report["gains"].get(first)
            gain = [interval(found, "+.3f") if found else "–"]
        named = [cell[key] for key in ("target", "way", "settings", "seed")]
        yield row(*named, *others, own, *gain)[0]


def beside(cells: Sequence[Cell]) -> Iterator[str]:
    """A line a cell and metric that did not decide, where texts are written: the scores of
    `target_only` and the transfer, and the difference with its interval."""
    yield from row(
        "target", "paradigm", "settings", "seed", "metric", "target_only", "score", "difference"
    )
    for cell in cells:
        report = cell["report"]
        systems, gain = report["systems"], report["gains"].get("target_only", {"metrics": {}})
        named = [cell[key] for key in ("target", "way", "settings", "seed")]
        for metric in (name for name in systems["transfer"] if name != report["metric"]):
            found = gain["metrics"].get(metric)
            alone = f"{systems['target_only'][metric]['value']:.3f}" if found else "–"
            own = interval(systems["transfer"][metric], ".3f")
            said = interval(found, "+.3f") if found else "–"
            yield row(*named, metric, alone, own, said)[0]
        for trait, value in report["traits"]["transfer"].items():
            alone = report["traits"].get("target_only", {}).get(trait)
            known = "–" if alone is None else f"{alone:.3f}"
            yield row(*named, trait, known, f"{value:.3f}", "–")[0]


def interval(found: dict[str, float], form: str) -> str:
    """0.812 (0.790 to 0.831)"""
    return f"{found['value']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def score(cell: Cell, system: str) -> float:
    """A system's score in a cell."""
    report = cell["report"]
    return float(report["systems"][system][report["metric"]]["value"])


def plain(cells: Sequence[Cell]) -> dict[Place, float]:
    """Place -> the score of plain fine-tuning with the set's own settings, by the newest code."""
    return {
        place(cell): score(cell, "target_only")
        for cell in cells
        if (cell["way"], cell["settings"]) == ("fine_tuning", "")
        and "target_only" in cell["report"]["systems"]
    }


def place(cell: Cell) -> Place:
    """What two cells must have in common to be compared."""
    return cell["target"], str(cell["seed"]), cell["backbone"], cell["report"]["metric"]


def gains_over(name: str, own: Sequence[Cell], cells: Sequence[Cell]) -> dict[str, list[float]]:
    """Test set -> the gain of each of its cells that has this baseline."""
    known = plain(cells)
    found: dict[str, list[float]] = {}
    for cell in own:
        gain = cell["report"]["gains"].get(name)
        if name == PLAIN and place(cell) in known:
            value = score(cell, "transfer") - known[place(cell)]
        elif gain:
            value = gain["value"]
        else:
            continue
        found.setdefault(cell["domain"], []).append(value)
    return found


def mean_gain(gains: Mapping[str, Sequence[float]]) -> str:
    """The mean gain, and its bootstrap interval over the test sets, each with all its cells.

    There is none over fewer than three. Cells that end in one domain are scored on its one test
    set, whatever their source or their number of labels, and are no sample of sets.
    """
    if not gains:
        return "–"
    found = [mean(values) for values in gains.values()]
    if len(found) < 3:
        return f"{mean(found):+.4f}"
    drawn = np.random.default_rng(0).choice(found, (10_000, len(found))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{mean(found):+.4f} ({low:+.4f} to {high:+.4f})"


def picture(cells: Sequence[Cell]) -> Figure:
    """The mean score over the seeds on each target, a mark a paradigm and one a baseline.

    Marks are joined to lines where the targets are one test set with ever more labels.
    """
    domain_of = {cell["target"]: cell["domain"] for cell in cells}
    targets = sorted(domain_of, key=lambda target: (domain_of[target], "all" in target.split(),
                                                    len(target), target))  # fmt: skip
    curve = len(targets) > 1 and len(set(domain_of.values())) == 1
    figure, axes = new_figure(4.0 + 1.1 * len(targets), 4.5)

    def draw(name: str, found: Mapping[str, Sequence[float]], line: str, **style: str) -> None:
        points = [(i, mean(found[t])) for i, t in enumerate(targets) if t in found]
        line = line if curve else "none"
        axes.plot(*zip(*points, strict=True), linestyle=line, label=name, **style)

    for i, (name, own) in enumerate(named_lines(cells).items()):
        marker = MARKERS[i % len(MARKERS)]  # 7 of them and 10 colours: 70 pairs
        draw(name, scores_of(own, "transfer"), "-", marker=marker)
    for i, (name, found) in enumerate(baselines(cells).items()):
        line = "--" if name.startswith(PLAIN) else ":"
        draw(name, found, line, marker=BASELINE_MARKERS[i % 7], color="black")
    axes.set_xticks(range(len(targets)), targets, rotation=30, ha="right")
    axes.set(ylabel=cells[0]["report"]["metric"])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def named_lines(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """A table's lines by what tells them apart: their paradigm, and what else must be said."""
    lines = lines_of(cells)
    ways = Counter(way for way, *_ in lines)
    return {
        way if ways[way] == 1 else ", ".join(filter(None, (way, *more))): own
        for (way, *more), own in lines.items()
    }


def baselines(cells: Sequence[Cell]) -> dict[str, dict[str, list[float]]]:
    """Baseline -> target -> its scores; a baseline of each backbone, if there are several.

    `source_only` is that of the newest cell without continued pretraining, which has its own.
    """
    untuned = {
        place(cell): score(cell, "source_only")
        for cell in cells
        if "source_only" in cell["report"]["systems"] and cell["way"] != "pretraining"
    }
    several = len({cell["backbone"] for cell in cells}) > 1
    found: dict[str, dict[str, list[float]]] = {}
    for name, known in ((f"{PLAIN}, no transfer", plain(cells)), ("source_only", untuned)):
        for (target, _, backbone, _), value in known.items():
            named = f"{name}, {backbone}" if several else name
            found.setdefault(named, {}).setdefault(target, []).append(value)
    return found


def scores_of(cells: Sequence[Cell], system: str) -> dict[str, list[float]]:
    """Target -> a system's scores, a cell each."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        found.setdefault(cell["target"], []).append(score(cell, system))
    return found


def write(name: str, text: str, results: Path | None = None) -> None:
    """Put a set's tables between its two marks in RESULTS.md; without them, at the end.

    Raises:
        GraftError: the second mark is missing, so what stands after the tables would be lost.
    """
    results = results or RESULTS
    start, end = f"<!-- {name}: -->", f"<!-- :{name} -->"
    whole = results.read_text(encoding="utf-8")
    if start not in whole:
        whole = f"{whole.rstrip()}\n\n## {name}\n\n{start}\n{end}\n"
    before, _, rest = whole.partition(start)
    if end not in rest:
        raise GraftError(f"{results}: '{start}' without '{end}' after it")
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
    for way, own in lines_of(cells).items():
        line = UNNAMEABLE.sub(" ", " ".join(way))
        client.log_metric(run, line, mean(score(cell, "transfer") for cell in own))
    client.set_terminated(run)
