"""Promotion on a toy project: real Prefect, MLflow and registered models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks import registry, store, tracking
from tasks.errors import ConfigError, DataRejected, SourceUnavailable
from tasks.history import Entry
from tasks.ledger import Ledger, roll_back
from tasks.load import load
from tests.project import write_promotable_project, write_rows

pytestmark = pytest.mark.integration

TARGET = "target.products.path="


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_promotable_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "home"


@pytest.fixture(autouse=True)
def here(project: Path, shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test goes on in the same home."""
    monkeypatch.setenv("GRAFT_HOME", str(shared_home))
    monkeypatch.chdir(project)


def challenge(model: str, *overrides: str, labelled: int = 240, path: str = "own") -> str:
    """Train a challenger; its version."""
    from flows.transfer import transfer

    given = [f"promotion.model={model}", f"{TARGET}{path}", f"target.products.labelled={labelled}"]
    few = ["training.epochs=6", "evaluation.baselines=[majority]"]
    found = transfer("toy", load(Path("pipelines.yaml"), "toy", [*given, *few, *overrides]))
    return str(found["registration"]["version"])


def promoted(model: str) -> tuple[dict[str, Any], Entry]:
    """Compare challenger and champion: the evidence, and what was written."""
    from flows.promote import promote

    found = promote(model)
    return found["evidence"], Entry(**found["entry"])


def alias(model: str) -> str | None:
    return registry.alias_version(model, "champion")


def test_ten_times_the_labels_then_the_seed_then_shuffled_labels() -> None:
    """The first is promoted for want of a champion, ten times its labels over it; another seed is
    as good, and shuffled labels are worse. Each has its entry, and evidence that it is known by."""
    few = challenge("toy", labelled=24)
    assert promoted("toy")[1].decision == "promoted"
    many = challenge("toy")
    said, entry = promoted("toy")
    assert (entry.decision, entry.previous, entry.champion) == ("promoted", few, many)
    assert said["report"]["gains"]["champion"]["low"] > 0
    assert (said["looks"], said["left_out"]) == (1, 0)

    challenge("toy", "seed=14")
    said, entry = promoted("toy")
    assert (entry.decision, entry.champion) == ("equivalent", many), said["verdict"]
    challenge("toy", path="shuffled")
    said, entry = promoted("toy")
    assert (entry.decision, entry.champion) == ("rejected", many), said["verdict"]
    assert "is below zero" in entry.because
    passed = {gate["name"]: gate["passed"] for gate in said["gates"]}
    assert list(passed) == [
        "no negative transfer",
        "worst slice",
        "calibration error",
        "milliseconds a text",
        "megabytes",
        "rows rejected",
        "licences",
    ]
    assert not passed["worst slice"]
    flips = pd.read_parquet(tracking.run_file(str(entry.run), "flips.parquet"))
    accuracy = {role: found["accuracy"] for role, found in said["report"]["systems"].items()}
    lost = accuracy["champion"]["value"] - accuracy["challenger"]["value"]
    counted = flips["change"].value_counts()
    assert counted["worse"] - counted.get("better", 0) == round(lost * said["report"]["rows"])
    assert (flips["champion"] != flips["challenger"]).all()
    kept = tracking.run_file(str(entry.run), "evidence.json")
    assert store.file_digest(kept) == entry.evidence
    for role in ("champion", "challenger"):
        table = pd.read_parquet(tracking.run_file(str(entry.run), f"predictions/{role}.parquet"))
        assert len(table) == said["report"]["rows"]
        accuracy = (table["predicted_label"] == table["label"]).mean()
        assert accuracy == pytest.approx(said["report"]["systems"][role]["accuracy"]["value"])


def test_slices_and_sources_of_a_users_choice() -> None:
    """Countries are judged apart, and so is what is left of the source."""
    folder = Path("countries")
    folder.mkdir()
    for part in ("train", "test"):
        rows = [json.loads(line) for line in (Path("own") / f"{part}.jsonl").open()]
        told = [{**row, "country": ("de", "fr")[n // 2 % 2]} for n, row in enumerate(rows)]
        write_rows(folder / f"{part}.jsonl", told)
    asked = ("target.products.slices=[country]", "promotion.source_drop=1")
    challenge("sliced", *asked, labelled=24, path="countries")
    promoted("sliced")
    challenge("sliced", *asked, path="countries")
    said, entry = promoted("sliced")
    assert entry.decision == "promoted"
    assert [part["name"] for part in said["report"]["slices"]["slice country"]] == ["de", "fr"]
    (gate,) = (gate for gate in said["gates"] if gate["name"] == "source movies")
    assert gate["passed"]
    flips = pd.read_parquet(tracking.run_file(str(entry.run), "flips.parquet"))
    assert set(flips["slice country"]) == {"de", "fr"}
    assert "By slice country" in tracking.run_file(str(entry.run), "flips.html").read_text()


def test_rows_that_the_champion_learned_from_are_left_out() -> None:
    """A set drawn anew holds some of its training rows; neither is asked those."""
    challenge("drawn", labelled=300)
    promoted("drawn")
    folder = Path("drawn")
    shutil.copytree("own", folder, dirs_exist_ok=True)
    train = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    test = (folder / "test.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(test[:200]))
    (folder / "test.jsonl").write_text("".join(test[200:] + train[:100]))
    challenge("drawn", labelled=190, path="drawn")
    said, entry = promoted("drawn")
    assert (said["left_out"], said["report"]["rows"]) == (100, 100)
    assert entry.frozen != Ledger("drawn").entries()[0].frozen
    (folder / "test.jsonl").write_text("".join(train[:100]))
    version = challenge("drawn", labelled=190, path="drawn")
    assert entry.decision != "promoted"
    with pytest.raises(DataRejected, match=f"learned from every test row of version {version}"):
        promoted("drawn")


def test_nothing_to_promote() -> None:
    """No model, no challenger, the champion itself."""
    with pytest.raises(SourceUnavailable, match="'nothing' is not in the registry"):
        promoted("nothing")
    tracking.connect().create_registered_model("empty")
    with pytest.raises(SourceUnavailable, match="'empty' has no challenger; graft run makes one"):
        promoted("empty")


def test_rolled_back() -> None:
    """The champion before is restored though the files of the present one are gone; who was rolled
    back is not promoted again."""
    first = challenge("back", labelled=24)
    promoted("back")
    second = challenge("back")
    promoted("back")
    shutil.rmtree(registry.download_model(f"models:/back/{second}"))
    challenge("back", "training.epochs=1")
    with pytest.raises(SourceUnavailable, match=f"models:/back/{second}: not a model"):
        promoted("back")
    assert len(Ledger("back").entries()) == 2
    tracking.connect().set_registered_model_alias("back", "challenger", second)
    entry = roll_back("back", None, "ann", "it swears")
    assert (entry.previous, entry.champion, alias("back")) == (second, first, first)
    with pytest.raises(ConfigError, match=f"ann rolled version {second}, the challenger, back"):
        promoted("back")
    assert roll_back("back", second, "bob", "it was the guest").champion == second
