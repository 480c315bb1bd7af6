"""The benchmark of transfer: its sets are valid pipelines, and its tables say what the cells do."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables, transfer
from benchmarks.sets import SETS
from flows import server
from tasks.errors import ConfigError
from tasks.tracking import connect
from tests.project import write_project


def options(name: str, *overrides: str) -> argparse.Namespace:
    return argparse.Namespace(set=name, backbone=None, overrides=list(overrides))


@pytest.mark.parametrize("name", [n for n in SETS if n != "labels"])
def test_sets(name: str) -> None:
    """Each target of a set is a pipeline; a paradigm that does not go with it says why."""
    if "GRAFT_BENCHMARKS" not in os.environ:
        pytest.skip("GRAFT_BENCHMARKS does not name the folder with the benchmark sets")
    cells = dict(SETS[name]())
    assert len(cells) == {"amazon": 12, "arsc": 12, "entities": 10}[name]
    target, given = next(iter(cells.items()))
    refused = set()
    for way in transfer.WAYS:
        try:
            transfer.built(options(name), given, way, 13)
        except ConfigError:
            refused.add(way)
    adapting = {"adversarial", "mmd", "coral", "information"}
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


def cell(way: str, seed: int, gain: float, target_only: float = 0.5) -> dict[str, Any]:
    def found(value: float) -> dict[str, Any]:
        return {"accuracy": {"value": value, "low": value - 0.1, "high": value + 0.1}}

    report = {
        "metric": "accuracy",
        "systems": {"target_only": found(target_only), "transfer": found(target_only + gain)},
        "gains": {"target_only": {"value": gain, "low": gain - 0.1, "high": gain + 0.1}},
    }
    return {
        "target": "books",
        "way": way,
        "settings": "",
        "code": "abc",
        "seed": seed,
        "report": report,
    }


def test_tables() -> None:
    """Means over cells, an interval where there are three or more, and each cell by itself."""
    assert "No cell" in tables.tables([])
    found = [cell("fomaml", s, 0.1, 0.6) for s in (13, 14, 15)]
    lines = tables.tables([cell("fine_tuning", 13, -0.2), *found]).splitlines()
    assert "| fine_tuning |  | 1 | 0.3000 | -0.2000 | -0.2000 |" in lines
    # Over its own baseline in all three cells; over plain fine-tuning where that was run.
    assert "| fomaml |  | 3 | 0.7000 | +0.1000 (+0.1000 to +0.1000) | +0.2000 |" in lines
    line = "| books | fomaml |  | 14 | 0.600 | 0.700 (0.600 to 0.800) | +0.100 (+0.000 to +0.200) |"
    assert line in lines


def test_cells_of_other_settings_stand_apart() -> None:
    """Other settings, or other code, are another line."""
    other = {**cell("fomaml", 13, 0.3), "settings": "paradigm.steps=9"}
    newer = {**cell("fomaml", 13, 0.4), "code": "def"}
    lines = tables.tables([cell("fomaml", 13, 0.1), other, newer]).splitlines()
    assert [line for line in lines if line.startswith("| fomaml |")] == [
        "| fomaml |  | 1 | 0.6000 | +0.1000 |",
        "| fomaml | paradigm.steps=9 | 1 | 0.8000 | +0.3000 |",
        "| fomaml |  | 1 | 0.9000 | +0.4000 |",
    ]


def test_a_baseline_that_a_cell_lacks() -> None:
    """Is a dash, and does not count."""
    lacking = cell("multi_task", 13, 0.1)
    both = cell("fine_tuning", 13, 0.2)
    both["report"]["systems"]["source_only"] = both["report"]["systems"]["target_only"]
    both["report"]["gains"]["source_only"] = both["report"]["gains"]["target_only"]
    lines = tables.tables([both, lacking]).splitlines()
    assert "| multi_task |  | 1 | 0.6000 | – | +0.1000 | +0.1000 |" in lines
    assert any(line.startswith("| books | multi_task |  | 13 | – | 0.500 |") for line in lines)


def test_results_are_replaced_between_their_marks(tmp_path: Path) -> None:
    """What people wrote around them stays."""
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\n<!-- arsc: -->\nold\n<!-- :arsc -->\n\nSaid of it.\n")
    tables.write("arsc", "new", results)
    tables.write("amazon", "first", results)
    text = results.read_text()
    assert "<!-- arsc: -->\nnew\n<!-- :arsc -->\n\nSaid of it." in text
    assert "old" not in text
    assert text.endswith("## amazon\n\n<!-- amazon: -->\nfirst\n<!-- :amazon -->\n")


def test_a_cell_is_run_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell runs the flow; the same command again runs nothing; the tables are in MLflow too."""
    monkeypatch.setattr(server, "prefect_server", lambda: nullcontext(lambda: None))
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "RESULTS.md")
    project = write_project(tmp_path / "project")
    given = {
        "application": {"kind": "text_classification", "labels": ["negative", "positive"]},
        "sources": {"movies": {"path": str(project / "movies.jsonl")}},
        "target": {"products": {"path": str(project / "products.jsonl"), "labelled": 24}},
        "source_training": {"epochs": 1},
        "validation": {"near_duplicates": 1.0},
        "evaluation": {"resamples": 200},
    }
    monkeypatch.setitem(transfer.SETS, "toy", lambda: iter([("products", given)]))
    (tmp_path / "RESULTS.md").write_text("# Results\n")
    command = ["transfer", "toy", "--backbone", str(project / "backbone"), "--write"]
    monkeypatch.setattr("sys.argv", command)
    transfer.main()
    title, first = capsys.readouterr().out.split("\n", 1)
    assert title == "toy: products, fine_tuning, seed 13"
    assert "| products | fine_tuning |  | 13 |" in first
    assert first.strip() in (tmp_path / "RESULTS.md").read_text()
    client = connect()
    runs = client.search_runs([client.get_experiment_by_name("benchmark-toy").experiment_id])
    assert "fine_tuning" in next(r for r in runs if r.info.run_name == "tables").data.metrics
    monkeypatch.setattr("flows.transfer.transfer", lambda *_: pytest.fail("ran again"))
    transfer.main()
    assert capsys.readouterr().out == first
