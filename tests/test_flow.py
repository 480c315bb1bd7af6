"""The whole flow on a toy project: real Prefect, MLflow and Great Expectations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import progress
from tasks.errors import DataRejected
from tasks.learning.objectives.denoising import SENTINELS
from tasks.load import load
from tests.project import numbered, write_project, write_rows
from tests.tiny import reviews, write_causal, write_seq2seq

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[dict[str, Any], dict[str, bool]]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "home"


@pytest.fixture
def run(project: Path, shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the pipeline; gives its result, and for each stage whether it was cached."""
    monkeypatch.setenv("GRAFT_HOME", str(shared_home))
    monkeypatch.chdir(project)
    seen: dict[str, bool] = {}

    def finish(stage: str, subject: str, seconds: float, *, cached: bool) -> None:
        if stage != "fetch":  # which always looks anew
            seen[f"{stage} {subject}"] = cached

    monkeypatch.setattr(progress, "finish", finish)

    def go(*overrides: str) -> tuple[dict[str, Any], dict[str, bool]]:
        from flows.transfer import transfer

        seen.clear()
        result = transfer("toy", load(Path("pipelines.yaml"), "toy", overrides))
        return result, dict(seen)

    return go


def mtime(path: Path) -> float:
    return path.stat().st_mtime


SOURCE = {"ingest movies", "validate movies", "source movies"}


def computed(cached: dict[str, bool]) -> set[str]:
    return {stage for stage, was in cached.items() if not was}


def test_a_run_measures_and_registers(run: Run) -> None:
    """One run: every baseline scored, the gain tested, the model registered as challenger."""
    import mlflow

    result, cached = run()
    assert not any(cached.values())
    report = result["evaluation"]
    assert list(report["systems"]) == ["majority", "source_only", "target_only", "transfer"]
    for scores in report["systems"].values():
        assert scores["macro_f1"]["low"] <= scores["macro_f1"]["value"]
        assert scores["macro_f1"]["value"] <= scores["macro_f1"]["high"]
    # Half the rows are of each label, and the toy is learnable: chance is about a third.
    assert report["systems"]["majority"]["macro_f1"]["value"] < 0.4
    assert report["systems"]["transfer"]["macro_f1"]["value"] > 0.8
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("toy", "challenger")
    assert str(version.version) == result["registration"]["version"]
    assert "| products (target) | 24 | 0 |" in version.description
    assert "licence unknown" in version.description
    assert "- reckoned, not measured: " in version.description
    assert f"graft run --from-run {result['run']}" in version.description
    parent = client.get_run(result["run"])
    assert parent.info.status == "FINISHED"
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result['run']}'"
    )
    assert {c.info.run_name for c in children} == set(report["systems"])
    curve = {c.info.run_name: client.get_metric_history(c.info.run_id, "loss") for c in children}
    assert not curve["majority"]
    for name in ("source_only", "target_only", "transfer"):
        steps = [point.step for point in curve[name]]
        assert steps
        assert len(steps) == len(set(steps))
    names = {a.path for a in client.list_artifacts(result["run"], "evaluation/pictures")}
    pictures = {"scores.png", "curves.png", "slices.png", "labels.png", "confusion.png"}
    assert {Path(n).name for n in names} == pictures
    docs = client.list_artifacts(result["run"], "validation/products/data_docs")
    assert any(a.path.endswith("index.html") for a in docs)


def test_a_second_run_is_cached_whole(run: Run) -> None:
    """Nothing changed: every stage is taken from the store, and nothing new is registered."""
    first, _ = run()
    second, cached = run()
    assert all(cached.values())
    assert second["evaluation"] == first["evaluation"]
    assert second["registration"]["version"] == first["registration"]["version"]


def test_a_training_value_reruns_what_depends_on_it(run: Run) -> None:
    """--set on a training value reruns what was trained by it, and what is said of that."""
    run()
    _, cached = run("training.epochs=1")
    assert computed(cached) == {
        "transfer target_only", "transfer transfer", "predict target_only", "predict transfer",
        "evaluate products", "register toy",
    }  # fmt: skip


def test_other_resamples_ask_no_learner_again(run: Run) -> None:
    """What the systems answered follows from them and the test rows alone."""
    run()
    _, cached = run("evaluation.resamples=100")
    assert computed(cached) == {"evaluate products", "register toy"}


def test_what_is_left_of_the_source(run: Run) -> None:
    """Where a limit is set on it, both models answer the source's own test rows, and nothing is
    trained anew."""
    run()
    result, cached = run("promotion.source_drop=0.5")
    assert computed(cached) == {
        "predict source_only on movies", "predict transfer on movies", "evaluate products",
        "register toy",
    }  # fmt: skip
    found = result["evaluation"]["retention"]["movies"]
    assert found["after"]["value"] > found["before"]["value"] > 0  # the toy's domains are alike
    lost = found["after"]["value"] - found["before"]["value"]
    assert found["gain"]["value"] == pytest.approx(lost)
    assert found["rows"] > 10


def test_one_target_row_leaves_the_source_alone(run: Run, project: Path) -> None:
    """A changed target row reruns the target's stages and not the source's."""
    run()
    path = project / "products.jsonl"
    before = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in before.splitlines()]
    for row in rows[:8]:  # several, so that at least one is trained or tested on
        row["text"] = "really " + row["text"]
    write_rows(path, rows)
    try:
        _, cached = run()
    finally:
        path.write_text(before, encoding="utf-8")
    assert not computed(cached) & SOURCE
    assert {"ingest products", "validate products", "evaluate products"} <= computed(cached)


def test_a_deleted_artifact_is_rebuilt(run: Run, shared_home: Path) -> None:
    """A stage output that is gone, or damaged, is noticed and made again."""
    first, _ = run()
    shutil.rmtree(shared_home / "artifacts" / "source")
    for manifest in (shared_home / "artifacts" / "evaluate").glob("*/report.json"):
        manifest.write_text("{}", encoding="utf-8")
    second, cached = run()
    assert {"source movies", "evaluate products"} <= computed(cached)
    assert second["evaluation"] == first["evaluation"]


def test_a_version_gone_from_the_registry_is_registered_again(run: Run) -> None:
    """A cached registration counts only while the registry has the version."""
    import mlflow

    first, _ = run()
    mlflow.MlflowClient().delete_model_version("toy", first["registration"]["version"])
    second, cached = run()
    assert computed(cached) == {"register toy"}
    assert second["registration"]["version"] != first["registration"]["version"]


def test_the_challenger_is_what_was_run_last(run: Run) -> None:
    """Going back to an earlier configuration makes its version the challenger again."""
    import mlflow

    first, _ = run()
    second, _ = run("training.epochs=1")
    assert second["registration"]["version"] != first["registration"]["version"]
    back, cached = run()
    assert all(cached.values())
    alias = mlflow.MlflowClient().get_model_version_by_alias("toy", "challenger")
    assert str(alias.version) == first["registration"]["version"]
    assert back["registration"]["version"] == first["registration"]["version"]


def test_a_registered_model_can_be_the_backbone(run: Run) -> None:
    """models:/NAME@ALIAS starts from the weights that were registered."""
    run()
    result, cached = run("backbone.path='models:/toy@challenger'")
    assert "source movies" in computed(cached)
    assert result["evaluation"]["systems"]["transfer"]["macro_f1"]["value"] > 0.8


def test_same_seed_same_metrics_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same seed and data give the same metrics in another home; another seed does not."""
    first, _ = run()
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "elsewhere"))
    second, cached = run()
    assert not any(cached.values())
    assert second["evaluation"] == first["evaluation"]
    other, _ = run("seed=14")
    assert other["evaluation"] != first["evaluation"]


def test_pretraining_lora_and_early_stopping(run: Run) -> None:
    """The other ways through the flow end in a registered model too."""
    result, cached = run(
        "pretraining={steps: 5, data: both}",
        "paradigm.lora={rank: 2}",
        "training.early_stopping={patience: 1}",
        "target.products.split.validation=0.3",
    )
    assert "pretrain mlm" in cached
    assert list(result["evaluation"]["systems"]) == [
        "majority", "source_only", "target_only", "transfer",
    ]  # fmt: skip
    assert result["registration"]["version"].isdigit()


@pytest.mark.parametrize("objective", ["causal", "denoising"])
def test_pretraining_of_what_writes(objective: str, run: Run, project: Path) -> None:
    """A network that writes continues with the target's texts, too, in its own way."""
    folder = project / objective
    if objective == "causal":
        write_causal(folder)
    else:
        with_sentinels(write_seq2seq(folder))
    further = f"pretraining={{objective: {objective}, steps: 5}}"
    result, cached = run(f"backbone.path={folder}", further, "evaluation.baselines=[majority]")
    assert cached[f"pretrain {objective}"] is False
    assert result["registration"]["version"].isdigit()


def with_sentinels(folder: Path) -> None:
    """Words that no text has, for the spans of denoising."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(SENTINELS[:8]))
    tokenizer.save_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)


def test_a_run_repeats_from_its_record(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """--from-run takes the recorded configuration, overrides included, and finds the same."""
    from flows import cli

    first, _ = run("training.epochs=1")
    capsys.readouterr()
    cli.run(name=None, overrides=[], from_run=first["run"], as_json=True)
    repeated = json.loads(capsys.readouterr().out)
    assert repeated["evaluation"] == first["evaluation"]
    assert repeated["run"] != first["run"]


def test_a_start_is_learned_from_the_sources_alone(run: Run, project: Path) -> None:
    """Meta-learning has a stage of its own, which new labels of the target do not repeat."""
    write_rows(project / "films.jsonl", numbered(reviews(80, 9), "films"))
    meta = (
        "sources.films={path: films.jsonl}",
        "source_training=null",
        "paradigm={kind: meta_learning, steps: 2, shots: 2, queries: 2}",
    )
    result, cached = run(*meta)
    assert not cached["transfer meta_learning"]
    assert list(result["evaluation"]["systems"]) == ["majority", "target_only", "transfer"]
    _, again = run(*meta, "target.products.labelled=20", "training.epochs=3")
    assert again["transfer meta_learning"]
    assert not again["transfer transfer"]
    with pytest.raises(DataRejected, match="an episode takes 104"):
        run(*meta, "paradigm.shots=102")


def test_what_changes_no_weight_trains_nothing(run: Run) -> None:
    """Another metric or more checkpoints: only the comparison is made anew."""
    run()
    _, cached = run(
        "evaluation.metric=accuracy",
        "training.checkpoint_every=7",
        "source_training.checkpoint_every=9",
    )
    assert computed(cached) == {"evaluate products", "register toy"}


def test_a_frozen_backbone_reads_each_row_once(run: Run, shared_home: Path) -> None:
    """Source training of the head alone leaves it as it was: its features are shared, too."""
    run("paradigm={kind: feature_extraction}", "source_training.freeze=all", "seed=5")
    kept = (shared_home / "artifacts" / "features").glob("*/features.npy")
    shapes = [np.load(path).shape for path in kept]
    assert shapes.count((24, 32)) == 1, shapes


def test_early_stopping_without_labels_of_the_target(
    run: Run, shared_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`watch: text` scores each epoch by the target's unlabelled text, and stops by that score."""
    scripted = iter([0.2, 0.5, 0.3, 0.9])
    seen: list[int] = []

    def scored(learner: Any, task: str, examples: Sequence[Any]) -> float:
        seen.append(len(examples))
        return next(scripted)

    monkeypatch.setattr("tasks.learning.information.information", scored)
    run(
        "target.products.labelled=0",
        "paradigm={kind: domain_adaptation, method: information}",
        "training.epochs=6",
        "training.early_stopping={patience: 1, watch: text}",
    )
    newest = max((shared_home / "artifacts" / "transfer").glob("*/metrics.jsonl"), key=mtime)
    lines = [json.loads(line) for line in newest.open()]
    scores = [x["validation_information"] for x in lines if "validation_information" in x]
    assert scores == [0.2, 0.5, 0.3]
    assert len(set(seen)) == 1
    assert seen[0] > 50
    assert not any("validation_macro_f1" in line for line in lines)
