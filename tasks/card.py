"""The card of a registered version: what it is, what it learned from, how well it does, how to make
it again. Mitchell et al. 2019."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks import provenance
from tasks.config import Pipeline
from tasks.domain import Domain

UNKNOWN = "unknown"
THREAD_WATTS = 12
"""What a core draws whose kind is not known; Lannelongue et al. 2021, the tool's default."""
GRAMS = 475
"""CO₂e of a kWh, the world's mean of 2019 (International Energy Agency)."""


def card(
    name: str,
    pipeline: Pipeline,
    report: Mapping[str, Any],
    counts: Mapping[str, Mapping[str, int]],
    digests: Mapping[str, str],
    trained: Mapping[str, Any],
    run: str,
) -> str:
    """Markdown, for the registry and for README.md beside the weights.

    Args:
        name: the pipeline's.
        pipeline: all of it.
        report: the evaluation's.
        counts: each domain's rows by set: train, validation, test, unlabelled.
        digests: of each domain's rows.
        trained: the transfer's training.json.
        run: the MLflow run.
    """
    parts = (
        heading(name, pipeline),
        scores(report),
        gains(report),
        weakest(report),
        making(pipeline, trained, run),
        data(pipeline, counts, digests, report),
    )
    return "\n".join(line for part in parts for line in (*part, ""))


def heading(name: str, pipeline: Pipeline) -> Iterator[str]:
    """What it is."""
    backbone = pipeline.backbone
    yield f"# {pipeline.promotion.model}"
    yield ""
    yield pipeline.description
    yield ""
    yield (
        f"- pipeline `{name}`, application {pipeline.application.kind}, "
        f"paradigm {pipeline.paradigm.kind}"
    )
    if backbone.path:
        yield f"- backbone `{backbone.path}`, licence {backbone.licence or UNKNOWN}"
    else:
        yield "- backbone new, of these data alone"


def data(
    pipeline: Pipeline,
    counts: Mapping[str, Mapping[str, int]],
    digests: Mapping[str, str],
    report: Mapping[str, Any],
) -> Iterator[str]:
    """What it learned from, and what it was tested on."""

    def origin(domain: Domain) -> str:
        revision = f", {domain.revision}" if domain.revision else ""
        return f"`{domain.path}`{revision}, licence {domain.licence or UNKNOWN}"

    yield "| data | train | validation | test | unlabelled | digest | |"
    yield "|---|---|---|---|---|---|---|"
    for name, domain in pipeline.domains.items():
        sizes = (counts[name][part] for part in ("train", "validation", "test", "unlabelled"))
        role = "target" if name == pipeline.target_name else "source"
        told = (f"{name} ({role})", *map(str, sizes), digests[name][:16], origin(domain))
        yield f"| {' | '.join(told)} |"
    yield ""
    yield (
        f"Frozen test set: {report['rows']} rows of {pipeline.target_name}, digest "
        f"{report['test_digest'][:16]}; seed {pipeline.seed}."
    )


def scores(report: Mapping[str, Any]) -> Iterator[str]:
    """Each system on the frozen test rows."""
    metric = report["metric"]
    yield f"| system | {metric} | {report['confidence']:.0%} interval |"
    yield "|---|---|---|"
    for name, found in report["systems"].items():
        value, low, high = (found[metric][bound] for bound in ("value", "low", "high"))
        yield f"| {name} | {value:.3f} | {low:.3f} to {high:.3f} |"


def gains(report: Mapping[str, Any]) -> Iterator[str]:
    """The transfer over each baseline."""
    for name, gain in report["gains"].items():
        said = "significant" if gain["significant"] else "not significant"
        interval = f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        yield f"- over {name}: {gain['value']:+.3f} ({interval}), {said}"


def weakest(report: Mapping[str, Any]) -> Iterator[str]:
    """Its limits: the label and the third of the test rows that it does worst on."""
    for measure, parts in {"label": report["by_label"], **report["slices"]}.items():
        if parts:
            worst = min(parts, key=lambda part: part["systems"]["transfer"]["value"])
            found = worst["systems"]["transfer"]
            metric = "F1" if measure == "label" else report["sliced"]
            yield (
                f"- weakest {measure}: {worst['name']}, {metric} {found['value']:.3f} "
                f"({found['low']:.3f} to {found['high']:.3f}) on {worst['rows']} rows"
            )


def making(pipeline: Pipeline, trained: Mapping[str, Any], run: str) -> Iterator[str]:
    """How long it took, on what, and how to do it again."""
    together = f", by {trained['processes']} processes" if trained["processes"] > 1 else ""
    yield (
        f"- the last training: {trained['seconds']:.0f} s, {trained['steps']} steps, "
        f"{trained['parameters']:,} weights, in {trained['precision']} on {trained['device']} of "
        f"{provenance.hardware()}{together}"
    )
    yield carbon(trained)
    yield f"- read at most {pipeline.application.maximum_tokens} tokens of a text"
    yield f"- the same again: `graft run --from-run {run}`"


def carbon(trained: Mapping[str, Any]) -> str:
    """What the last training took in energy and carbon, reckoned from its time."""
    graphics = 0.0 if trained["device"] == "cpu" else provenance.graphics_watts()
    if graphics is None:
        return "- energy and carbon: not reckoned, the device does not say what it draws"
    watts = trained["processes"] * (trained["threads"] * THREAD_WATTS + graphics)
    hours = trained["seconds"] / 3600
    return (
        f"- reckoned, not measured: {watts * hours:.2g} Wh at {watts:.0f} W, "
        f"{watts * hours / 1000 * GRAMS:.2g} g CO₂e at {GRAMS} g a kWh, the world's mean"
    )
