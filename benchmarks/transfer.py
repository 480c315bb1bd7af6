"""Sets × paradigms × seeds, each cell a run of the flow that users have.

    python -m benchmarks.transfer arsc --paradigms fine_tuning prototypical --seeds 13 14

A cell that is done is not done again: its report is kept under GRAFT_HOME/benchmarks, its metrics
and model are in MLflow as of any run. `--table` prints the tables of what is there, `--write` puts
them into RESULTS.md and MLflow, and a picture of them beside RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import sets, tables
from benchmarks.sets import PIPELINES, SETS
from flows.console import console, quiet_libraries, set_verbosity
from tasks import load, store
from tasks.config import Pipeline
from tasks.errors import ConfigError, GraftError

WAYS: Mapping[str, dict[str, Any]] = {
    "fine_tuning": {"paradigm": {"kind": "fine_tuning"}},
    "prototypes": {"paradigm": {"kind": "fine_tuning", "head": "prototypes"}},
    "feature_extraction": {
        "paradigm": {"kind": "feature_extraction"},
        "training": {"epochs": 100, "learning_rate": 1e-3},
    },
    "multi_task": {"paradigm": {"kind": "multi_task", "temperature": 5}, "source_training": None},
    "adversarial": {"paradigm": {"kind": "domain_adaptation"}},
    "mmd": {"paradigm": {"kind": "domain_adaptation", "method": "mmd"}},
    "coral": {"paradigm": {"kind": "domain_adaptation", "method": "coral"}},
    "information": {"paradigm": {"kind": "domain_adaptation", "method": "information"}},
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
    set_verbosity(0)
    if not options.table:
        try:
            run_cells(options)
        except GraftError as error:
            sys.exit(f"benchmarks.transfer: {error}")
    cells = cells_of(options.set)
    text = tables.tables(cells)
    print(text)
    if options.write and cells:
        tables.write(options.set, text)
        tables.picture(cells).savefig(tables.RESULTS.with_name(f"{options.set}.png"), dpi=120)
        tables.track(options.set, text, cells)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Transfer by each paradigm on real sets.")
    parser.add_argument("set", choices=SETS, help="the benchmark set")
    parser.add_argument("--paradigms", nargs="+", choices=WAYS, default=["fine_tuning"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[13])
    parser.add_argument("--targets", nargs="+", help="some of the set's targets; default: all")
    parser.add_argument(
        "--backbone", help="a folder or hub id; default: the set's, or that of `reviews`"
    )
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="PATH=VALUE",
                        help="settings for every cell, such as paradigm.steps=60")  # fmt: skip
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--write", action="store_true", help="the tables to RESULTS.md and MLflow")
    options = parser.parse_args()
    for place, option in (("seed", "--seeds"), ("backbone", "--backbone")):
        if any(override.partition("=")[0].split(".")[0] == place for override in options.overrides):
            parser.error(f"--set {place}: use {option}, which the tables tell apart")
    return options


def run_cells(options: argparse.Namespace) -> None:
    """Every cell that is not there yet, in one Prefect session."""
    from flows.server import prefect_server

    with store.writing(store.home()):
        store.home().mkdir(parents=True, exist_ok=True)
        wanted = planned(options)
    with prefect_server() as ready:
        from flows.transfer import transfer

        ready()
        for (seed, way, target), pipeline in wanted.items():
            path = cell_path(options.set, target, way, seed, pipeline)
            if path.exists():
                continue
            console.print(f"[bold]{options.set}: {target}, {way}, seed {seed}[/bold]")
            report = transfer(f"benchmark-{options.set}", pipeline)["evaluation"]
            cell = {
                "target": target,
                "domain": pipeline.target_name,
                "way": way,
                "settings": ", ".join(options.overrides),
                "backbone": named(options.backbone, pipeline),
                "code": code(),
                "seed": seed,
                "report": report,
            }
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(cell), encoding="utf-8")
            partial.rename(path)


def planned(options: argparse.Namespace) -> dict[tuple[int, str, str], Pipeline]:
    """Seed, paradigm and target -> the pipeline of each cell that was asked for.

    Raises:
        ConfigError: a target is unknown, a paradigm does not go with the set, or a setting is not
            accepted.
    """
    cells = dict(SETS[options.set]())
    if unknown := sorted(set(options.targets or ()) - set(cells)):
        raise ConfigError(f"--targets: '{unknown[0]}' is none of {', '.join(cells)}")
    return {
        (seed, way, target): built(options, cells[target], way, seed)
        for seed in options.seeds
        for way in options.paradigms
        for target in options.targets or cells
    }


def built(options: argparse.Namespace, given: dict[str, Any], way: str, seed: int) -> Pipeline:
    """A cell's pipeline: the set's, the paradigm's changes, the command line's.

    Raises:
        ConfigError: the paradigm does not go with the set, or a setting is not accepted.
    """
    own = given.get("backbone") or load.load(PIPELINES, "reviews").backbone.model_dump(mode="json")
    whole = {
        **load.merge(given, {**WAYS[way], "seed": seed}),
        "backbone": {"path": options.backbone} if options.backbone else own,
        "promotion": {"model": f"benchmark-{options.set}"},
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pipelines.json"  # JSON is YAML
        path.write_text(json.dumps({"pipelines": {options.set: whole}}), encoding="utf-8")
        return load.load(path, options.set, options.overrides)


def named(given: str | None, pipeline: Pipeline) -> str:
    """What the tables call the backbone."""
    if given:
        return Path(given).name
    return "new" if pipeline.backbone.new else "MiniLM-L6"


def cell_path(name: str, target: str, way: str, seed: int, pipeline: Pipeline) -> Path:
    """Where a cell's report is kept: other settings, data or code are another cell."""
    folder = store.home() / "benchmarks" / "cells" / name
    folder.mkdir(parents=True, exist_ok=True)
    places = [domain.path for domain in pipeline.domains.values()]
    places += [pipeline.backbone.path] if pipeline.backbone.path else []
    found = {place: store.folder_digest(Path(place)) for place in places if Path(place).exists()}
    whole = {"pipeline": pipeline.model_dump(mode="json"), "code": code(), "files": found}
    digest = store.digest(whole)[:12]
    return folder / f"{target.replace(' ', '-')}-{way}-{seed}-{digest}.json"


def code() -> str:
    """Which code computes a cell: Graft's stages, and what the sets and the paradigms are."""
    files = [*sorted(Path(sets.__file__).parent.glob("*.py")), Path(__file__), PIPELINES]
    said = [store.file_digest(path) for path in files]
    return store.digest([store.code_version(), *said])[:8]


def cells_of(name: str) -> list[dict[str, Any]]:
    """The cells of a set that are there, oldest first."""
    folder = store.home() / "benchmarks" / "cells" / name
    paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


if __name__ == "__main__":
    main()
