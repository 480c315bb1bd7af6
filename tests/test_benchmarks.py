"""The benchmark of transfer: its sets are valid pipelines, and its tables say what the cells do."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import transfer
from benchmarks.sets import SETS
from tasks.errors import ConfigError


def options(name: str, *overrides: str) -> argparse.Namespace:
    return argparse.Namespace(set=name, backbone=None, overrides=list(overrides))


@pytest.mark.parametrize("name", [n for n in SETS if n != "labels"])
def test_sets(name: str) -> None:
    """Each target of a set is a pipeline; a paradigm that does not go with it says why."""
    if "GRAFT_BENCHMARKS" not in os.environ:
        pytest.skip("GRAFT_BENCHMARKS does not name the folder with the benchmark sets")
    cells = dict(SETS[name]())
    assert len(cells) == {"amazon": 12, "arsc": 12, "entities": 5}[name]
    target, given = next(iter(cells.items()))
    refused = set()
    for way in transfer.WAYS:
        try:
            transfer.built(options(name), given, way, 13)
        except ConfigError:
            refused.add(way)
    adapting = {"adversarial", "mmd", "coral"}
    expected = {
        "amazon": set(transfer.WAYS) - adapting,  # no labels of the target
        "arsc": set(),
        "entities": {"maml", "fomaml", "reptile", "prototypical"},  # one source
    }
    assert refused == expected[name], target


def test_labels_need_no_benchmark_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve over labels is of the shipped pipeline."""
    monkeypatch.delenv("GRAFT_BENCHMARKS", raising=False)
    cells = dict(SETS["labels"]())
    assert list(cells) == [f"{n} labels" for n in (5, 10, 20, 50, 100, 200)]
    built = transfer.built(options("labels", "seed=14"), cells["20 labels"], "fine_tuning", 13)
    assert (built.seed, built.target["products"].labelled) == (14, 20)
    with pytest.raises(ConfigError, match="GRAFT_BENCHMARKS"):
        next(SETS["arsc"]())


def cell(way: str, seed: int, gain: float) -> dict[str, Any]:
    def found(value: float) -> dict[str, Any]:
        return {"accuracy": {"value": value, "low": value - 0.1, "high": value + 0.1}}

    report = {
        "metric": "accuracy",
        "systems": {"target_only": found(0.5), "transfer": found(0.5 + gain)},
        "gains": {"target_only": {"value": gain}},
    }
    return {"target": "books", "way": way, "seed": seed, "report": report}


def test_tables(home: Path) -> None:
    """Means over cells, an interval where there are three or more, and each cell by itself."""
    assert "No cell" in transfer.tables("arsc")
    folder = home / "benchmarks" / "cells" / "arsc"
    folder.mkdir(parents=True)
    found = [cell("fomaml", s, g) for s, g in ((13, 0.1), (14, 0.1), (15, 0.1))]
    for one in [*found, cell("fine_tuning", 13, -0.2)]:
        (folder / f"{one['way']}-{one['seed']}.json").write_text(json.dumps(one))
    lines = transfer.tables("arsc").splitlines()
    assert "| fine_tuning | 1 | 0.3000 | -0.2000 |" in lines
    assert "| fomaml | 3 | 0.6000 | +0.1000 (+0.1000 to +0.1000) |" in lines
    assert "| books | fomaml | 14 | 0.500 | 0.600 (0.500 to 0.700) |" in lines
