"""What no field of a pipeline can refuse alone: values that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.domain import Conflict

if TYPE_CHECKING:
    from tasks.config import Pipeline


def check(pipeline: Pipeline) -> None:
    """Go through every rule.

    Raises:
        Conflict: one is broken; it names the place.
    """
    names(pipeline)
    metric(pipeline)
    baselines(pipeline)
    target_labels(pipeline)
    early_stopping(pipeline)
    source_drop(pipeline)
    slices(pipeline)
    monitoring(pipeline)
    paradigm(pipeline)
    for name in pipeline.domains:
        columns_and_labels(pipeline, name)


def monitoring(pipeline: Pipeline) -> None:
    """Drifted text is learned from by what reads text."""
    pretraining = pipeline.pretraining
    reads = pipeline.paradigm.reads_text or (pretraining and pretraining.data != "source")
    if pipeline.monitoring and pipeline.monitoring.retrain and not reads:
        raise Conflict(
            ("monitoring", "retrain"),
            f"monitoring.retrain: '{pipeline.paradigm.kind}' does not read the target's text; give "
            "a paradigm that does (domain_adaptation), or pretraining with data: target",
        )


def names(pipeline: Pipeline) -> None:
    """Domains have names of their own."""
    target, kind = pipeline.target_name, pipeline.application.kind
    if target in pipeline.sources:
        raise Conflict(
            ("sources", target), f"target '{target}' is also a source; give it another name"
        )
    if pipeline.target[target].application is not None:
        raise Conflict(
            ("target", target, "application"),
            "the target's application is the pipeline's; remove this one",
        )
    if kind in pipeline.sources:
        raise Conflict(
            ("sources", kind), f"a source cannot be called '{kind}', like the application"
        )


def metric(pipeline: Pipeline) -> None:
    """The application has the metric that decides."""
    known = pipeline.application.metrics
    if pipeline.metric not in known:
        raise Conflict(
            ("evaluation", "metric"),
            f"evaluation.metric '{pipeline.metric}' is unknown; one of {', '.join(known)}",
        )


def baselines(pipeline: Pipeline) -> None:
    """Baselines that were asked for by name can be had."""
    asked, place = pipeline.evaluation.baselines, ("evaluation", "baselines")
    if asked is None:
        return
    accepted = (pipeline.application.floor, "source_only", "target_only")
    if extra := [name for name in asked if name not in accepted]:
        raise Conflict(
            place,
            f"evaluation.baselines: {pipeline.application.kind} has no '{extra[0]}'; accepted: "
            f"{', '.join(accepted)}",
        )
    if "source_only" in asked and not (pipeline.source_training and pipeline.sources_share_task):
        raise Conflict(
            place,
            "evaluation.baselines: source_only needs source_training, and a source with the "
            "target's labels; remove it",
        )
    if "target_only" in asked and pipeline.target[pipeline.target_name].labelled == 0:
        raise Conflict(
            place, "evaluation.baselines: labelled is 0, so there is no target_only; remove it"
        )


def source_drop(pipeline: Pipeline) -> None:
    """There is a source's model, to answer the source's rows before the transfer and after."""
    asked = pipeline.promotion.source_drop is not None
    if asked and not (pipeline.source_training and pipeline.sources_share_task):
        raise Conflict(
            ("promotion", "source_drop"),
            "promotion.source_drop needs source_training, and a source with the target's labels; "
            "remove it",
        )


def slices(pipeline: Pipeline) -> None:
    """It is the target's rows that are scored apart."""
    for name, domain in pipeline.sources.items():
        if domain.slices:
            raise Conflict(
                ("sources", name, "slices"), "slices are of the target's test rows; remove them"
            )


def target_labels(pipeline: Pipeline) -> None:
    """Without labels of the target, its text is read, and a source has its labels."""
    target, kind = pipeline.target_name, pipeline.paradigm.kind
    if pipeline.target[target].labelled != 0:
        return
    place = ("target", target, "labelled")
    if not pipeline.paradigm.reads_text:
        raise Conflict(place, f"labelled is 0, but {kind} needs labels of the target")
    if not pipeline.sources_share_task:
        raise Conflict(place, "labelled is 0, but no source has the target's labels to learn from")


def early_stopping(pipeline: Pipeline) -> None:
    """There is something to watch: the source stage knows nothing of the target, and a target
    without labels has no validation rows."""
    stopping = pipeline.training.early_stopping
    unlabelled = pipeline.target[pipeline.target_name].labelled == 0
    if stopping and stopping.watch == "labels" and unlabelled:
        raise Conflict(
            ("training", "early_stopping"),
            "labelled is 0, so early_stopping has no labels to watch; accepted: watch: text",
        )
    if stopping and stopping.watch == "text" and not pipeline.application.labels:
        raise Conflict(
            ("training", "early_stopping", "watch"),
            f"watch: text is about labels, and {pipeline.application.kind} has none; accepted: "
            "labels",
        )
    training = pipeline.source_training
    if training and training.early_stopping and training.early_stopping.watch == "text":
        raise Conflict(
            ("source_training", "early_stopping", "watch"),
            "the source stage never reads the target's text, so its early_stopping.watch accepts "
            "labels only",
        )


def paradigm(pipeline: Pipeline) -> None:
    """The paradigm's own complaints, a head it cannot use, and sources that nothing reads."""
    kind = pipeline.paradigm.kind
    if pipeline.paradigm.needs_linear_head and not pipeline.application.labels:
        raise Conflict(
            ("paradigm",), f"prototypes are of labels, and {pipeline.application.kind} has none"
        )
    if pipeline.paradigm.needs_linear_head and pipeline.application.hidden:
        raise Conflict(
            ("application", "hidden"),
            "prototypes make a linear head, so application.hidden must be null",
        )
    reads_sources = pipeline.paradigm.reads_sources or pipeline.source_training
    if not reads_sources and not pipeline.pretraining:
        raise Conflict(
            ("source_training",),
            f"source_training is null and {kind} reads no sources, so nothing would be learned "
            "from them; remove `source_training: null`",
        )
    labels_of = {
        name: len(pipeline.application_of(name).labels)
        for name, domain in pipeline.domains.items()
        if name == pipeline.target_name or domain.labelled != 0
    }
    for complaint in pipeline.paradigm.complaints(labels_of, tuple(pipeline.tasks)):
        raise Conflict(("paradigm",), complaint)


def columns_and_labels(pipeline: Pipeline, name: str) -> None:
    """A domain maps to columns and labels that its application has."""
    domain = pipeline.domains[name]
    where = ("sources" if name in pipeline.sources else "target", name)
    application = pipeline.application_of(name)
    labels, fields = application.labels, tuple(application.fields)
    if extra := sorted(set(domain.label_rule or {}) - set(labels)):
        raise Conflict(
            (*where, "label_rule", extra[0]),
            f"label_rule of '{name}' makes '{extra[0]}', which is not among the labels of "
            f"its application: {', '.join(labels)}",
        )
    if extra := sorted(set(domain.columns) - set(fields)):
        raise Conflict(
            (*where, "columns", extra[0]),
            f"columns of '{name}' maps '{extra[0]}', which {application.kind} does "
            f"not have; accepted: {', '.join(fields)}",
        )
