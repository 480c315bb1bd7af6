"""The source stage: a backbone is found, pretrained further if asked, and trained on the sources.

Its key holds nothing of the target's labels, so a retrain on new target data finds it done.
"""

from __future__ import annotations

from pathlib import Path

from tasks import progress, store
from tasks.config import BackboneConfig, Pipeline
from tasks.errors import ConfigError, UnsafeModel
from tasks.fetch import fetch
from tasks.learning.contracts import Unfit
from tasks.stage import Stage
from tasks.training import Origin, fit, read_rows


def locate(config: BackboneConfig) -> Origin:
    """The backbone's folder, checked to be safe, and its digest.

    Raises:
        SourceUnavailable: nothing is there.
        UnsafeModel: pickled weights, or code of its own.
    """
    from tasks.learning.safety import UnsafeBackbone, check_safe

    if config.path.startswith("models:/"):
        from tasks.registry import download_model

        folder = download_model(config.path) / "learner" / "backbone"
    else:
        folder = fetch(config.path, config.revision, "models")
    try:
        check_safe(folder)
    except UnsafeBackbone as error:
        raise UnsafeModel(str(error)) from error
    return Origin(folder, store.folder_digest(folder))


def pretraining_stage(pipeline: Pipeline, origin: Origin, split: store.Output) -> Stage:
    """Masked language modelling on the text of the sources, the target, or both."""
    config = pipeline.pretraining
    assert config is not None
    domains = {
        "source": list(pipeline.sources),
        "target": [pipeline.target_name],
        "both": list(pipeline.domains),
    }[config.data]

    def compute(folder: Path) -> None:
        texts = [
            row
            for domain in domains
            for part in ("train", "unlabelled")
            for row in read_rows(split.file(f"{domain}/{part}.parquet"))
        ]
        pretrain(pipeline, origin, texts, folder)

    return Stage(
        "pretrain",
        config.objective,
        {
            "pretraining": config.model_dump(mode="json"),
            "application": pipeline.application.model_dump(mode="json"),
            "domains": domains,  # in the order their rows are read
            "seed": pipeline.seed,
        },
        {"backbone": origin.digest, **{d: split.digest(f"{d}/") for d in domains}},
        compute,
    )


def pretrain(pipeline: Pipeline, origin: Origin, texts: list, folder: Path) -> None:  # type: ignore[type-arg]
    """Continue pretraining and write the learner, heads untrained.

    Raises:
        ConfigError: the tokenizer has no mask token.
    """
    from tasks.learning import loop
    from tasks.learning.batches import Stream
    from tasks.learning.masking import MaskedLanguageModelling
    from tasks.training import start

    config = pipeline.pretraining
    assert config is not None
    learner = start(pipeline, origin)
    if learner.tokenizer.mask_token_id is None:
        raise ConfigError("pretraining.objective is mlm, but the backbone has no mask token")
    stream = Stream(
        pipeline.application.kind,
        pipeline.application.encode(texts, learner.tokenizer, supervised=False),
        pad_id=learner.tokenizer.pad_token_id,
        budget=config.tokens_per_batch,
        seed=pipeline.seed,
    )
    schedule = loop.Schedule(steps=config.steps, learning_rate=config.learning_rate)
    try:
        loop.train(
            learner,
            MaskedLanguageModelling(config.mask),
            {},
            stream,
            schedule,
            folder,
            report=lambda step, steps, values: progress.step("pretraining", step, steps, values),
        )
    except Unfit as error:
        raise ConfigError(str(error)) from error
    learner.save(folder / "learner")
    loop.forget_checkpoint(folder)


def source_stage(pipeline: Pipeline, origin: Origin, split: store.Output) -> Stage:
    """Supervised training on all sources' labelled rows together."""
    training = pipeline.source_training
    assert training is not None

    def compute(folder: Path) -> None:
        from tasks.learning.paradigms import FineTuning

        parts = {
            part: [
                row
                for domain in pipeline.sources
                for row in read_rows(split.file(f"{domain}/{part}.parquet"))
            ]
            for part in ("train", "validation")
        }
        paradigm = FineTuning(kind="fine_tuning", freeze=training.freeze)
        fit(
            pipeline,
            origin,
            parts["train"],
            parts["validation"],
            paradigm,
            training,
            folder,
            "source",
        )

    return Stage(
        "source",
        " + ".join(pipeline.sources),
        {
            "training": training.model_dump(mode="json"),
            "application": pipeline.application.model_dump(mode="json"),
            "metric": pipeline.metric,
            "sources": list(pipeline.sources),  # in the order their rows are read
            "seed": pipeline.seed,
        },
        {"origin": origin.digest, **{d: split.digest(f"{d}/") for d in pipeline.sources}},
        compute,
    )
