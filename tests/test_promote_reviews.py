"""Promotion on the shipped pipeline, real reviews and real weights."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.history import Entry
from tasks.ledger import Ledger
from tasks.load import load, resolve
from tests.conftest import PIPELINES
from tests.project import write_rows

pytestmark = [pytest.mark.regression, pytest.mark.timeout(1800)]


def challenge(**changes: Any) -> None:
    """Train a challenger of `reviews`, with other settings of its target, or another seed; what a
    promotion compares it with is the champion, so no baseline learns. Of the source, 3,000 rows."""
    from flows.transfer import transfer

    document = load(PIPELINES, "reviews").model_dump(mode="json")
    document["seed"] = changes.pop("seed", document["seed"])
    document["target"]["products"] |= changes
    document["evaluation"]["baselines"] = ["majority"]
    document["sources"]["movies"]["labelled"] = 3000
    transfer("reviews", resolve(json.dumps(document)))


def promoted() -> Entry:
    """Compare it with the champion; what was decided."""
    from flows.promote import promote

    found = promote("reviews")
    gain = found["evidence"]["report"]["gains"].get("champion")
    print(json.dumps({"verdict": found["evidence"]["verdict"], "gain": gain}, indent=1))
    return Entry(**found["entry"])


def shuffled(home: Path, folder: Path) -> dict[str, Any]:
    """The same rows to learn from and to test on, the labels of the first dealt out anew."""
    folder.mkdir()
    (split,) = (
        path.parent
        for path in home.glob("artifacts/split/*/products/train.parquet")
        if len(pd.read_parquet(path)) == 200
    )
    for part in ("train", "test"):
        rows = pd.read_parquet(split / f"{part}.parquet").to_dict("records")
        labels = [row["label"] for row in rows]
        if part == "train":
            random.Random(0).shuffle(labels)
        pairs = zip(rows, labels, strict=True)
        told = [{"text": r["text"], "group": r["group"], "label": label} for r, label in pairs]
        write_rows(folder / f"{part}.jsonl", told)
    plain = {"header": None, "columns": {}, "label_rule": None, "revision": None}
    return {**plain, "path": str(folder), "group": "group", "group_separator": None}


def test_labels_then_shuffled_labels_then_the_seed(registry_home: Path, tmp_path: Path) -> None:
    """200 labels are promoted over 20; shuffled ones are rejected, and a model that differs by its
    seed alone, which draws the test rows anew, is equivalent. Each has its entry."""
    challenge(labelled=20)
    first = promoted()
    challenge()
    many = promoted()
    assert (many.decision, many.previous) == ("promoted", first.version)
    challenge(**shuffled(registry_home, tmp_path / "shuffled"))
    worse = promoted()
    assert (worse.decision, worse.frozen) == ("rejected", many.frozen)
    challenge(seed=14)
    other = promoted()
    assert other.decision == "equivalent"
    assert other.frozen != many.frozen
    Ledger("reviews").verify()
    assert Ledger("reviews").standing().version == many.version
