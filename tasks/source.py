"""The source stage: a backbone is found, pretrained further if asked, and trained on the sources.

Its key holds nothing of the target's labels, so a retrain on new target data finds it done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tasks import progress, store
from tasks.config import BackboneConfig, Pipeline, Pretraining, SourceTraining
from tasks.errors import ConfigError, UnsafeModel
from tasks.fetch import fetch, made_once
from tasks.learning.contracts import Paradigm, Row, Unfit
from tasks.processes import first, together
from tasks.stage import Stage
from tasks.training import Origin, Rows, fit, read_rows, training_key

if TYPE_CHECKING:
    from tasks.learning.objectives.base import Unlabelled


def locate(config: BackboneConfig) -> Origin:
    """The backbone's folder, checked to be safe, and its digest.

    Raises:
        SourceUnavailable: nothing is there.
        UnsafeModel: pickled weights, or code of its own.
    """
    from tasks.learning.gguf import from_gguf
    from tasks.learning.safety import PICKLE, UnsafeBackbone, check_safe, from_pickle

    assert config.path is not None
    if config.path.startswith("models:/"):
        from tasks.registry import download_model

        with TemporaryDirectory() as copied:
            model = download_model(config.path, Path(copied))
            folder = converted(model / "learner" / "backbone", copy)
    else:
        folder = fetch(config.path, config.revision, "models")
    try:
        if folder.suffix == ".gguf":
            folder = converted(folder, from_gguf)
        elif config.pickle == "convert" and (folder / PICKLE).is_file():
            folder = converted(folder, from_pickle)
        check_safe(folder)
    except UnsafeBackbone as error:
        raise UnsafeModel(str(error)) from error
    return Origin(folder, store.folder_digest(folder))


def copy(place: Path, target: Path) -> None:
    """A folder as it is: what is in a registry may be on another machine, or gone tomorrow."""
    shutil.copytree(place, target)


def converted(place: Path, convert: Callable[[Path, Path], None]) -> Path:
    """The model as a folder with its weights as safetensors, in GRAFT_HOME/converted/<digest>."""
    target = store.home() / "converted" / store.folder_digest(place)
    with made_once(target) as work:
        if work is not None:
            convert(place, work / "model")
            (work / "model").rename(target)
    return target


def pretraining_stage(pipeline: Pipeline, origin: Origin, split: store.Output) -> Stage:
    """Continued pretraining on the text of the sources, the target, or both."""
    config = pipeline.pretraining
    assert config is not None
    domains = {
        "source": list(pipeline.sources),
        "target": [pipeline.target_name],
        "both": list(pipeline.domains),
    }[config.data]

    def compute(folder: Path) -> None:
        texts = {
            domain: [
                row
                for part in ("train", "unlabelled")
                for row in read_rows(split.file(f"{domain}/{part}.parquet"))
            ]
            for domain in domains
        }
        together(config.processes, pretrain, pipeline, origin, texts, folder)

    return Stage(
        "pretrain",
        config.objective,
        {
            "pretraining": config.model_dump(mode="json"),
            "tasks": {
                n: a.model_dump(mode="json", exclude={"hidden"})  # no head is trained
                for n, a in pipeline.tasks.items()
            },
            "domains": domains,  # in the order their rows are read
            "seed": pipeline.seed,
        },
        {"backbone": origin.digest, **{f"rows of {d}": split.digest(f"{d}/") for d in domains}},
        compute,
    )


def pretrain(
    pipeline: Pipeline, origin: Origin, texts: Mapping[str, Sequence[Row]], folder: Path
) -> None:
    """Continue pretraining on the domains' texts and write the learner, heads untrained; what each
    process does.

    Raises:
        ConfigError: the objective does not go with the backbone.
    """
    from tasks.learning import checkpoint, loop
    from tasks.learning.batches import Stream, Together
    from tasks.learning.objectives.base import encoded
    from tasks.training import start

    config = pipeline.pretraining
    assert config is not None
    learner = start(pipeline, origin)
    examples = []
    for domain, rows in texts.items():
        application = pipeline.application_of(domain)
        read = [" ".join(row[field] for field in application.inputs) for row in rows]
        ended = config.objective != "mlm"
        examples += encoded(read, learner, application.maximum_tokens, ended=ended)
    stream = Stream(
        pipeline.application.kind,
        examples,
        pad_id=learner.tokenizer.pad_token_id,
        budget=config.tokens_per_batch,
        seed=pipeline.seed,
    )
    schedule = loop.Schedule(steps=config.steps, learning_rate=config.learning_rate)
    try:
        loop.train(
            learner,
            objective(config),
            Together(target=stream),
            schedule,
            folder,
            report=lambda step, steps, values: progress.step("pretraining", step, steps, values),
        )
    except Unfit as error:
        raise ConfigError(f"pretraining.objective is {config.objective}: {error}") from error
    if first():
        learner.save(folder / "learner")
        checkpoint.forget(folder)


def objective(config: Pretraining) -> Unlabelled:
    """What is learned from the text."""
    from tasks.learning.objectives.causal import CausalLanguageModelling
    from tasks.learning.objectives.denoising import Denoising
    from tasks.learning.objectives.masked import MaskedLanguageModelling

    if config.objective == "causal":
        return CausalLanguageModelling()
    kinds = {"mlm": MaskedLanguageModelling, "denoising": Denoising}
    return kinds[config.objective](config.mask)


def paradigm(training: SourceTraining) -> Paradigm:
    """How the sources' labels are learned."""
    from tasks.learning.paradigms import FeatureExtraction, FineTuning

    if training.freeze == "all":
        return FeatureExtraction(kind="feature_extraction")
    return FineTuning(kind="fine_tuning", freeze=training.freeze)


def source_stage(pipeline: Pipeline, origin: Origin, split: store.Output) -> Stage:
    """Supervised training on all sources' labelled rows together."""
    training = pipeline.source_training
    assert training is not None

    def compute(folder: Path) -> None:
        parts = {
            part: {
                task: [
                    row
                    for domain in pipeline.sources
                    if pipeline.task(domain) == task
                    for row in read_rows(split.file(f"{domain}/{part}.parquet"))
                ]
                for task in pipeline.tasks
            }
            for part in ("train", "validation")
        }
        fit(
            pipeline,
            origin,
            Rows(parts["train"], parts["validation"]),
            paradigm(training),
            training,
            folder,
            "source",
        )

    return Stage(
        "source",
        " + ".join(pipeline.sources),
        {
            "training": training_key(training),
            "tasks": {n: a.model_dump(mode="json") for n, a in pipeline.tasks.items()},
            "metric": pipeline.metric if training.early_stopping else None,
            "sources": list(pipeline.sources),  # in the order their rows are read
            "seed": pipeline.seed,
        },
        {
            "origin": origin.digest,
            **{f"rows of {d}": split.digest(f"{d}/") for d in pipeline.sources},
        },
        compute,
    )
