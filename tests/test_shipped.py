"""The shipped pipelines.yaml, shrunk, run whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.load import load, names

ROOT = Path(__file__).parents[1]
FIRST = names(ROOT / "pipelines.yaml")[0]


def small(name: str) -> list[str]:
    """Overrides that leave a pipeline few rows and steps, and everything else as it is but, of all
    pipelines that are not the first one, the baselines that have to learn."""
    pipeline = load(ROOT / "pipelines.yaml", name)
    sizes = ["training.epochs=1", "evaluation.resamples=200"]
    if name != FIRST:
        sizes.append(f"evaluation.baselines=[{pipeline.application.floor}]")
    if pipeline.source_training:
        sizes.append("source_training.epochs=1")
    learned, tested = 200, "split.test=0.1"
    if not pipeline.application.labels:  # a new network's vocabulary needs rows
        learned, tested = 16 if pipeline.backbone.path else 200, "tested=10"
    for source in pipeline.sources:
        sizes += [f"sources.{source}.labelled={learned}", f"sources.{source}.split.test=0.02"]
    if pipeline.paradigm.kind == "meta_learning":
        sizes.append("paradigm.steps=3")
    target = f"target.{pipeline.target_name}"
    return [*sizes, f"{target}.labelled={min(learned, 100)}", f"{target}.{tested}"]


def test_the_readme_explains_the_shipped_example() -> None:
    """The README quotes the first pipeline to the letter, and names the others."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second, *others = names(ROOT / "pipelines.yaml")
    shipped = (ROOT / "pipelines.yaml").read_text(encoding="utf-8")
    assert f"{first}:" in shipped
    assert shipped.partition(f"\n  {second}:")[0].rstrip() in readme
    assert all(f"`{name}`" in readme for name in (second, *others))


@pytest.mark.integration
@pytest.mark.parametrize("name", names(ROOT / "pipelines.yaml"))
def test_a_shipped_pipeline_runs_shrunk(name: str, registry_home: Path) -> None:
    """Real data and weights, few rows: validated, trained, evaluated, registered."""
    from flows.transfer import transfer

    assert (registry_home / "packages").exists()
    result = transfer(name, load(ROOT / "pipelines.yaml", name, small(name)))
    report = result["evaluation"]
    pipeline = load(ROOT / "pipelines.yaml", name)
    assert report["rows"] >= (100 if pipeline.application.labels else 10)
    assert result["registration"]["model"] == pipeline.promotion.model
    found = {system: scores[report["metric"]] for system, scores in report["systems"].items()}
    if pipeline.application.labels:  # one epoch teaches nothing to write
        assert found["transfer"]["value"] >= found["majority"]["value"]
    if name == FIRST:
        assert found["transfer"]["low"] > found["majority"]["high"]
