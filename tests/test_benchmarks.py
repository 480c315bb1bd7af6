"""The benchmark of transfer: its sets are valid pipelines, and its tables say what the cells do."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from _pytest.outcomes import Failed

from benchmarks import overhead, tables, transfer
from benchmarks.sets import SETS
from flows import server
from tasks.errors import ConfigError, GraftError
from tasks.tracking import connect
from tests.project import write_project

COUNTS = {
    "amazon": 12,
    "held-out": 12,
    "arsc": 12,
    "entities": 10,
    "strings": 3,
    "news": 3,
    "summaries": 2,
    "summaries-2": 1,
    "dialogues": 3,
    "dialogues-2": 1,
}
"""Set -> its targets."""


def options(name: str, *overrides: str) -> argparse.Namespace:
    return argparse.Namespace(set=name, backbone=None, overrides=list(overrides))


@pytest.mark.parametrize("name", [n for n in SETS if "labels" not in n])
def test_sets(name: str) -> None:
    """Each target of a set is a pipeline; a paradigm that does not go with it says why."""
    if "GRAFT_BENCHMARKS" not in os.environ:
        pytest.skip("GRAFT_BENCHMARKS does not name the folder with the benchmark sets")
    cells = dict(SETS[name]())
    assert len(cells) == COUNTS[name]
    for given in cells.values():
        for domain in (*given["sources"].values(), *given["target"].values()):
            assert domain["split"]["validation"] == 0, "all labels are trained on"
    target, given = next(iter(cells.items()))
    refused = set()
    for way in transfer.WAYS:
        try:
            transfer.built(options(name), given, way, 13)
        except ConfigError:
            refused.add(way)
    adapting = {"adversarial", "mmd", "coral", "information"}
    one_source = {"maml", "fomaml", "reptile", "prototypical"}
    no_labels = {"prototypes", "prototypical", "information"}
    expected = {
        "amazon": set(transfer.WAYS) - adapting,  # no labels of the target
        "held-out": set(transfer.WAYS) - adapting,
        "arsc": set(),
        "entities": one_source,
        "strings": no_labels,
        "summaries-2": no_labels,
        "dialogues-2": no_labels,
        **dict.fromkeys(("news", "summaries", "dialogues"), no_labels | one_source),
    }
    assert refused == expected[name], target


def test_labels_need_no_benchmark_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve over labels is of the shipped pipeline."""
    monkeypatch.delenv("GRAFT_BENCHMARKS", raising=False)
    cells = dict(SETS["labels"]())
    assert list(cells) == [f"{n} labels" for n in (5, 10, 20, 50, 100, 200)]
    built = transfer.built(options("labels"), cells["20 labels"], "fine_tuning", 14)
    assert (built.seed, built.target["products"].labelled) == (14, 20)
    assert built.training.epochs == 20
    several = dict(SETS["labels-3"]())["20 labels"]
    assert set(transfer.built(options("labels-3"), several, "reptile", 13).sources) == {
        "movies",
        "editorials",
        "tweets",
    }
    with pytest.raises(ConfigError, match="GRAFT_BENCHMARKS"):
        next(SETS["arsc"]())


def cell(way: str, seed: int, gain: float, target_only: float = 0.5) -> dict[str, Any]:
    def found(value: float) -> dict[str, Any]:
        return {"accuracy": {"value": value, "low": value - 0.1, "high": value + 0.1}}

    report = {
        "metric": "accuracy",
        "systems": {"target_only": found(target_only), "transfer": found(target_only + gain)},
        "gains": {"target_only": {"value": gain, "low": gain - 0.1, "high": gain + 0.1}},
        "labels": {"transfer": {"positive": {}}},
    }
    return {
        "target": "books",
        "domain": "books",
        "way": way,
        "settings": "",
        "backbone": "MiniLM",
        "code": "abc",
        "seed": seed,
        "report": report,
    }


def lines_of(cells: list[dict[str, Any]], way: str) -> list[str]:
    lines = tables.tables(cells).splitlines()
    return [line for line in lines if line.startswith(f"| {way} |")]


def test_tables() -> None:
    """Means over cells, and each cell by itself, with the gain over plain fine-tuning beside it."""
    assert "No cell" in tables.tables([])
    found = [cell("fine_tuning", 13, -0.2), *(cell("fomaml", s, 0.1, 0.6) for s in (13, 14, 15))]
    start = "MiniLM | abc | 1 |"
    assert lines_of(found, "fine_tuning") == [
        f"| fine_tuning |  | {start} 1 | 0.3000 | -0.2000 | -0.2000 |"
    ]
    # Over its own baseline in all three cells; over plain fine-tuning where that was run.
    assert lines_of(found, "fomaml") == [f"| fomaml |  | {start} 3 | 0.7000 | +0.1000 | +0.2000 |"]
    line = "| books | fomaml |  | 14 | 0.600 | 0.700 (0.600 to 0.800) | +0.100 (+0.000 to +0.200) |"
    assert line in tables.tables(found).splitlines()


def test_metrics_beside() -> None:
    """Of texts that are written, every other metric against target_only, and what has none."""
    found = cell("fine_tuning", 13, 0.2)
    report = found["report"]
    report["labels"] = {"transfer": {}}
    both = {"value": 7.0, "low": 6.0, "high": 8.0}
    report["systems"]["target_only"]["perplexity"] = {**both, "value": 9.0}
    report["systems"]["transfer"]["perplexity"] = both
    report["gains"]["target_only"]["metrics"] = {
        "perplexity": {"value": -2.0, "low": -3.0, "high": -1.0}
    }
    report["traits"] = {"target_only": {"distinct1": 5.0}, "transfer": {"distinct1": 12.0}}
    lines = tables.tables([found]).splitlines()
    start = "| books | fine_tuning |  | 13 |"
    difference = "-2.000 (-3.000 to -1.000)"
    assert f"{start} perplexity | 9.000 | 7.000 (6.000 to 8.000) | {difference} |" in lines
    assert f"{start} distinct1 | 5.000 | 12.000 | – |" in lines
    assert "metric" not in tables.tables([cell("fine_tuning", 13, 0.2)])


def test_targets_are_what_varies() -> None:
    """The interval is over targets: seeds of one target are no further evidence."""
    gains = {"books": (0.1, 0.3), "dvd": (0.2, 0.2), "kitchen": (0.0, 0.4), "toys": (0.2,)}
    found = [
        {**cell("fomaml", seed, gain), "target": target, "domain": target}
        for target, values in gains.items()
        for seed, gain in enumerate(values)
    ]
    (line,) = lines_of(found, "fomaml")
    assert line.endswith("| +0.2000 (+0.2000 to +0.2000) |")
    assert "| 4 | 2 |" in line


def test_picture() -> None:
    """A line a paradigm, the mean over seeds on each target it has, and plain fine-tuning's."""
    found = [
        {**cell("fine_tuning", 13, 0.1), "target": "5 labels"},
        {**cell("fine_tuning", 14, 0.3), "target": "5 labels"},
        {**cell("fine_tuning", 13, 0.2), "target": "10 labels"},
        {**cell("fomaml", 13, 0.4), "target": "10 labels"},
    ]
    systems = found[-1]["report"]["systems"]
    systems["source_only"] = systems["target_only"]
    (axes,) = tables.picture(found).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    baselines = ["plain fine-tuning, no transfer", "source_only"]
    assert list(lines) == ["fine_tuning", "fomaml", *baselines]
    assert lines["source_only"] == [[1, 0.5]]
    assert lines["fine_tuning"] == [[0, pytest.approx(0.7)], [1, pytest.approx(0.7)]]
    assert lines["fomaml"] == [[1, pytest.approx(0.9)]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5 labels", "10 labels"]


def test_picture_tells_lines_apart() -> None:
    """Paradigms by what else differs, baselines by their backbone; no lines between tasks."""
    found = [
        {
            **{**cell(way, 13, 0.1), "target": target, "domain": target},
            **{"settings": settings, "backbone": backbone},
        }
        for target in ("books", "dvd")
        for backbone in ("MiniLM", "BERT")
        for way, settings in (("fine_tuning", ""), ("fomaml", "a=1"), ("fomaml", "a=2"))
    ]
    (axes,) = tables.picture(found).axes
    labels = [line.get_label() for line in axes.lines]
    assert len(set(labels)) == len(labels) == 8
    assert {"fomaml, a=1, MiniLM, abc", "plain fine-tuning, no transfer, BERT"} <= set(labels)
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == len(labels)
    assert {line.get_linestyle() for line in axes.lines} == {"None"}


def test_picture_has_all_rows_last() -> None:
    """Few labels first, then more, then all there are."""
    found = [
        {**cell("fine_tuning", 13, 0.1), "target": target, "domain": "zul"}
        for target in ("zul all", "zul 1500", "zul 500")
    ]
    (axes,) = tables.picture(found).axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["zul 500", "zul 1500", "zul all"]


def test_numbers_of_labels_are_no_sample() -> None:
    """They share a test set: the interval is over test sets, and there is none over one."""
    found = [
        {**cell("fomaml", 13, 0.1), "target": f"{n} labels", "domain": "reviews"}
        for n in (5, 10, 20)
    ]
    assert lines_of(found, "fomaml")[0].endswith("| 0.6000 | +0.1000 |")
    (axes,) = tables.picture(found).axes
    assert {line.get_linestyle() for line in axes.lines} == {"-"}
    gains = {"politics": 0.1, "science": 0.3, "music": 0.2}
    once = [{**cell("fomaml", 13, g), "target": f"{t} 50", "domain": t} for t, g in gains.items()]
    twice = [*once, *({**c, "target": c["target"].replace("50", "200")} for c in once)]
    assert lines_of(once, "fomaml")[0].split("|")[-2] == lines_of(twice, "fomaml")[0].split("|")[-2]


def test_pairs_into_one_target_share_its_test_set() -> None:
    """Twelve pairs of four domains are scored on four test sets: they are drawn, not the pairs."""
    domains = {"books": 0.0, "dvd": 0.1, "electronics": 0.2, "kitchen": 0.3}
    pairs = [
        {**cell("fomaml", 13, gain), "target": f"{source} {name}", "domain": name}
        for source in domains
        for name, gain in domains.items()
        if source != name
    ]
    once = [{**cell("fomaml", 13, gain), "domain": name} for name, gain in domains.items()]
    gains = [tables.mean_gain(tables.gains_over("target_only", c, c)) for c in (pairs, once)]
    assert gains[0] == gains[1]


def test_source_only_is_one_system() -> None:
    """The newest without continued pretraining, not a mean of what differs."""
    found = [cell("fine_tuning", 13, 0.1), cell("pretraining", 13, 0.1, 0.9)]
    for one in found:
        one["report"]["systems"]["source_only"] = one["report"]["systems"]["target_only"]
    assert tables.baselines(found)["source_only"] == {"books": [0.5]}


@pytest.mark.parametrize(
    "other",
    [{"settings": "paradigm.steps=9"}, {"code": "def"}, {"backbone": "BERT"}],
)
def test_cells_of_other_making_stand_apart(other: dict[str, str]) -> None:
    """Other settings, other code or another backbone are another line, and no plain baseline."""
    found = [cell("fomaml", 13, 0.1), {**cell("fomaml", 13, 0.3), **other}]
    assert len(lines_of(found, "fomaml")) == 2
    plain = {**cell("fine_tuning", 13, 0.0, 0.4), **other}
    text = tables.tables([cell("fomaml", 13, 0.1), plain])
    # 0.6 is 0.2 above 0.4, which counts where code alone differs: the newest plain run stands.
    assert ("| +0.2000 |" in text) == ("code" in other)


def test_a_baseline_that_a_cell_lacks() -> None:
    """Is a dash, and does not count."""
    lacking = cell("multi_task", 13, 0.1)
    both = cell("fine_tuning", 13, 0.2)
    both["report"]["systems"]["source_only"] = both["report"]["systems"]["target_only"]
    both["report"]["gains"]["source_only"] = both["report"]["gains"]["target_only"]
    found = [both, lacking]
    assert lines_of(found, "multi_task")[0].endswith("| 0.6000 | – | +0.1000 | +0.1000 |")
    lines = tables.tables(found).splitlines()
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
    results.write_text("<!-- arsc: -->\nold\nSaid of it.\n")
    with pytest.raises(GraftError, match="without"):
        tables.write("arsc", "new", results)


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
    progress, mark, first = capsys.readouterr().out.partition("| paradigm")
    first = mark + first
    assert progress.startswith("toy: products, fine_tuning, seed 13\n")
    assert "| products | fine_tuning |  | 13 |" in first
    assert first.strip() in (tmp_path / "RESULTS.md").read_text()
    assert (tmp_path / "toy.png").stat().st_size > 0
    client = connect()
    runs = client.search_runs([client.get_experiment_by_name("benchmark-toy").experiment_id])
    (written,) = (run for run in runs if run.info.run_name == "tables")
    assert [name.split()[0] for name in written.data.metrics] == ["fine_tuning"]
    monkeypatch.setattr("flows.transfer.transfer", lambda *_: pytest.fail("ran again"))
    transfer.main()
    assert capsys.readouterr().out == first
    with (project / "products.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"text": "one more", "label": "positive"}\n')
    with pytest.raises(Failed, match="ran again"):  # other data are another cell
        transfer.main()


def test_a_cell_that_cannot_be_is_refused_before_any_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last paradigm, a target that is none, and settings that are options of their own."""
    given = dict(SETS["labels"]())
    monkeypatch.setitem(transfer.SETS, "toy", lambda: iter(given.items()))
    monkeypatch.setattr("flows.transfer.transfer", lambda *_: pytest.fail("ran"))
    for arguments, says in (
        (["--paradigms", "fine_tuning", "fomaml"], "one source"),
        (["--targets", "20"], "'20' is none of 5 labels"),
        (["--set", "seed=15"], "2"),  # argparse's exit status
        (["--set", "backbone.path=other"], "2"),
    ):
        monkeypatch.setattr("sys.argv", ["transfer", "toy", *arguments])
        with pytest.raises(SystemExit, match=says):
            transfer.main()


def test_seconds_of_learning() -> None:
    """Of the stages that learn or answer, whatever they work on; what was cached took none."""
    lines = [
        "01:08:46 validate  movies: done in 1.3 s",
        "         source    movies + books: done in 0.6 s  ",
        "transfer  step 18/18  loss 0.662",
        "transfer  transfer: done in 12.5 s",
        "predict   transfer on movies: done in 0.2 s",
        "source    movies: cached",
        "register  transfer: done in 0.9 s",
    ]
    assert overhead.learned(lines) == pytest.approx(13.3)
    with pytest.raises(ValueError, match="no stage learned"):
        overhead.learned(lines[-2:])
