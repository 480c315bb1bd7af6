"""Sets × paradigms × seeds, each cell a run of the flow that users have.

    python -m benchmarks.transfer arsc --paradigms fine_tuning meta_learning --seeds 13 14

A cell that is done is not done again: its report is kept under GRAFT_HOME/benchmarks, its metrics
and model are in MLflow as of any run. `--table` prints the tables of what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.sets import PIPELINES, SETS
from flows.console import console, quiet_libraries
from tasks import load, store
from tasks.config import Pipeline
from tasks.errors import GraftError

WAYS: Mapping[str, dict[str, Any]] = {
    "fine_tuning": {"paradigm": {"kind": "fine_tuning"}},
    "prototypes": {"paradigm": {"kind": "fine_tuning", "head": "prototypes"}},
    "feature_extraction": {
        "paradigm": {"kind": "feature_extraction"},
        "training": {"epochs": 100, "learning_rate": 1e-3},
    },
    "multi_task": {"paradigm": {"kind": "multi_task", "temperature": 2}, "source_training": None},
    "adversarial": {"paradigm": {"kind": "domain_adaptation"}},
    "mmd": {"paradigm": {"kind": "domain_adaptation", "method": "mmd"}},
    "coral": {"paradigm": {"kind": "domain_adaptation", "method": "coral"}},
    "pretraining": {"paradigm": {"kind": "fine_tuning"}, "pretraining": {"steps": 300}},
    **{
        method: {"paradigm": {"kind": "meta_learning", "method": method, "freeze": 3}}
        for method in ("maml", "fomaml", "reptile", "prototypical")
    },
}
"""What a row of the table is called -> what it changes in a set's pipeline."""


def main() -> None:
    """Run what was asked for, then print the tables."""
    options = parse()
    quiet_libraries()
    if not options.table:
        try:
            run_cells(options)
        except GraftError as error:
            sys.exit(f"benchmarks.transfer: {error}")
    print(tables(options.set))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Transfer by each paradigm on real sets.")
    parser.add_argument("set", choices=SETS, help="the benchmark set")
    parser.add_argument("--paradigms", nargs="+", choices=WAYS, default=["fine_tuning"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[13])
    parser.add_argument("--targets", nargs="+", help="some of the set's targets; default: all")
    parser.add_argument("--backbone", help="a folder or hub id; default: that of `reviews`")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="PATH=VALUE",
                        help="settings for every cell, such as paradigm.steps=60")  # fmt: skip
    parser.add_argument("--table", action="store_true", help="only print what is there")
    return parser.parse_args()


def run_cells(options: argparse.Namespace) -> None:
    """Every cell that is not there yet, in one Prefect session."""
    from flows.server import prefect_server

    with prefect_server() as ready:
        from flows.transfer import transfer

        ready()
        for seed in options.seeds:
            for way in options.paradigms:
                for target, given in SETS[options.set]():
                    if options.targets and target not in options.targets:
                        continue
                    pipeline = built(options, given, way, seed)
                    path = cell_path(options.set, target, way, seed, pipeline)
                    if path.exists():
                        continue
                    console.print(f"[bold]{options.set}: {target}, {way}, seed {seed}[/bold]")
                    report = transfer(f"benchmark-{options.set}", pipeline)["evaluation"]
                    cell = {"target": target, "way": way, "seed": seed, "report": report}
                    partial = path.with_suffix(".partial")
                    partial.write_text(json.dumps(cell), encoding="utf-8")
                    partial.rename(path)


def built(options: argparse.Namespace, given: dict[str, Any], way: str, seed: int) -> Pipeline:
    """A cell's pipeline: the set's, the paradigm's changes, the command line's.

    Raises:
        ConfigError: the paradigm does not go with the set, or a setting is not accepted.
    """
    backbone = load.load(PIPELINES, "reviews").backbone.model_dump(mode="json")
    if options.backbone:
        backbone = {"path": options.backbone}
    whole = load.merge(
        {"backbone": backbone, "promotion": {"model": f"benchmark-{options.set}"}},
        load.merge(given, {**WAYS[way], "seed": seed}),
    )
    path = store.home() / "benchmarks" / "pipelines.json"  # JSON is YAML
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pipelines": {options.set: whole}}, indent=1), encoding="utf-8")
    return load.load(path, options.set, options.overrides)


def cell_path(name: str, target: str, way: str, seed: int, pipeline: Pipeline) -> Path:
    """Where a cell's report is kept: other settings are another cell."""
    folder = store.home() / "benchmarks" / "cells" / name
    folder.mkdir(parents=True, exist_ok=True)
    digest = store.digest(pipeline.model_dump(mode="json"))[:12]
    return folder / f"{target.replace(' ', '-')}-{way}-{seed}-{digest}.json"


def tables(name: str) -> str:
    """Markdown: a line a paradigm, over all its cells; then a line a cell."""
    folder = store.home() / "benchmarks" / "cells" / name
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    if not cells:
        return f"No cell of {name} is there yet."
    metric = cells[0]["report"]["metric"]
    ways = sorted({cell["way"] for cell in cells}, key=list(WAYS).index)
    baselines = sorted({b for cell in cells for b in cell["report"]["gains"]})
    lines = [
        f"| paradigm | cells | {metric} | "
        + " | ".join(f"gain over {b} (95% interval over cells)" for b in baselines)
        + " |",
        "|---|---|---|" + "---|" * len(baselines),
    ]
    for way in ways:
        own = [cell for cell in cells if cell["way"] == way]
        found = mean(score(cell, "transfer") for cell in own)
        gains = [
            over_cells([cell["report"]["gains"][b]["value"] for cell in own]) for b in baselines
        ]
        lines.append(f"| {way} | {len(own)} | {found:.4f} | {' | '.join(gains)} |")
    return "\n".join([*lines, "", *each(cells, baselines, metric)])


def each(cells: Sequence[dict[str, Any]], baselines: Sequence[str], metric: str) -> Iterator[str]:
    """A line a cell: the scores of all systems, the transfer's with its interval."""
    yield f"| target | paradigm | seed | {' | '.join(baselines)} | transfer, {metric} |"
    yield "|---|---|---|" + "---|" * len(baselines) + "---|"
    for cell in cells:
        others = " | ".join(f"{score(cell, b):.3f}" for b in baselines)
        own = cell["report"]["systems"]["transfer"][metric]
        yield (
            f"| {cell['target']} | {cell['way']} | {cell['seed']} | {others} | "
            f"{own['value']:.3f} ({own['low']:.3f} to {own['high']:.3f}) |"
        )


def score(cell: dict[str, Any], system: str) -> float:
    """A system's score in a cell."""
    report = cell["report"]
    return float(report["systems"][system][report["metric"]]["value"])


def over_cells(gains: Sequence[float]) -> str:
    """The mean gain, and its bootstrap interval over the cells; the cells are what varies."""
    if len(gains) < 3:
        return f"{mean(gains):+.4f}"
    drawn = np.random.default_rng(0).choice(gains, (10_000, len(gains))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{mean(gains):+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
