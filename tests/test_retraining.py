"""New labels: the next run starts from the champion, keeps its test rows, and is judged by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks import registry, tracking
from tasks.load import load
from tasks.store import folder_digest
from tests.project import numbered, write_project, write_rows
from tests.test_promote import promoted
from tests.tiny import reviews

pytestmark = pytest.mark.integration

FEW = ("evaluation.baselines=[majority]", "training.epochs=6")
WARM = (*FEW, "backbone.path='models:/toy@champion'")


def run(*overrides: str) -> dict[str, Any]:
    """What a run of `toy` found."""
    from flows.transfer import transfer

    return transfer("toy", load(Path("pipelines.yaml"), "toy", list(overrides)))


def recorded(found: dict[str, Any], name: str) -> Path:
    """What a run recorded for promotions."""
    return tracking.run_file(found["run"], f"frozen/{name}")


def labelled(found: dict[str, Any]) -> int:
    """Rows of the target whose labels a run learned from."""
    told = json.loads(tracking.run_file(found["run"], "split.json").read_text())
    return int(told["domains"]["products"]["train"])


def test_grown_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the rows: those that were test rows still are, the weights begin where the
    champion's end, and the promotion asks both the rows that neither has learned."""
    folder = write_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    few = run(*FEW)
    assert promoted("toy")[1].champion == "1"
    champion = registry.download_model("models:/toy/1") / "learner" / "backbone"

    rows = [json.loads(line) for line in (folder / "products.jsonl").read_text().splitlines()]
    more = numbered(reviews(320, seed=9), "more")
    write_rows(folder / "products.jsonl", [*rows, *more])
    many = run(*WARM, "target.products.labelled=null")

    tested, still = (set(pd.read_parquet(recorded(f, "test.parquet"))["text"]) for f in (few, many))
    assert tested < still
    known = set(pd.read_parquet(recorded(many, "text.parquet"))["text"])
    assert not known & still
    learned = [labelled(found) for found in (few, many)]
    assert learned[0] == 24
    assert learned[1] > 3 * 24

    copies = [one for one in (tmp_path / "home" / "converted").iterdir() if one.is_dir()]
    assert [one.name for one in copies] == [folder_digest(champion)]

    said, entry = promoted("toy")
    assert entry.previous == "1"
    assert said["left_out"] == 0, "the champion learned no row that is asked"
    assert entry.version == "2"
