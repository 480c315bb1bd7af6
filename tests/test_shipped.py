"""The shipped pipelines.yaml, shrunk, run whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.load import load, names

ROOT = Path(__file__).parents[1]


def small(name: str) -> list[str]:
    """Overrides that leave a pipeline few rows and steps, and everything else as it is."""
    pipeline = load(ROOT / "pipelines.yaml", name)
    sizes = ["training.epochs=1", "evaluation.resamples=200"]
    if pipeline.source_training:
        sizes.append("source_training.epochs=1")
    large = (pipeline.backbone.path or "").endswith(".gguf")
    for source in pipeline.sources:
        rows = 16 if large else 200
        sizes += [f"sources.{source}.labelled={rows}", f"sources.{source}.split.test=0.02"]
    if pipeline.paradigm.kind == "meta_learning":
        sizes.append("paradigm.steps=3")
    target = f"target.{pipeline.target_name}"
    if large:
        return [*sizes, f"{target}.labelled=16", f"{target}.tested=10"]
    return [*sizes, f"{target}.labelled=100", f"{target}.split.test=0.1"]


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
    if name == "reviews":
        assert found["transfer"]["low"] > found["majority"]["high"]
