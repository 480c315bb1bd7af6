"""`pipelines.yaml` as frozen objects. Every field's docstring is its documentation in the schema.

Domains are in `domain.py`, and what does not go together in `consistency.py`. The unions of
applications and paradigms are where those live: `tasks/learning/applications` and
`tasks/learning/paradigms`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from tasks import consistency
from tasks.domain import Domain, Share
from tasks.learning.applications import AnyApplication
from tasks.learning.contracts import Config
from tasks.learning.paradigms import AnyParadigm

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Baseline = Literal["majority", "copy", "lead", "source_only", "target_only"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]
MARGIN = 0.02
"""A difference that does not matter, as a share of the highest score there is."""


class NewBackbone(Config):
    """A seq2seq network of Marian's kind and its vocabulary, made from the training rows alone, for
    languages that no checkpoint knows."""

    vocabulary: Annotated[int, Field(gt=300)] = 8000
    """Sub-words, learned from all that the sources and the target read and write."""
    width: PositiveInt = 256
    """H, the size of a token's state."""
    layers: PositiveInt = 3
    """Layers of the encoder, and as many of the decoder."""
    heads: PositiveInt = 4
    """Attention heads; the width is a multiple of them."""
    feed_forward: PositiveInt = 1024
    """Width of the hidden layer within each layer."""

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> Self:
        """Each head has as large a part of the state."""
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class BackboneConfig(Config):
    """The network the knowledge is carried by: a pretrained one, or a new one."""

    path: str | None = None
    """A transformers folder or a .gguf file, on this machine or as
    `package:NAME==VERSION/inner/path`; a hub id; or `models:/NAME@ALIAS` from the MLflow registry.
    Weights must be safetensors or GGUF, whose quantized ones are made float32."""
    new: NewBackbone | None = None
    """Made from the training rows; `new: {}` takes every default."""
    revision: str | None = None
    """`sha256:…` of a registry package's file (required there), or a hub commit."""
    licence: str | None = None
    """The weights' licence; it stands in the model card."""
    pickle: Literal["refuse", "convert"] = "refuse"
    """What becomes of weights in a pickle, which could run code when loaded. convert: read them
    with torch's restricted loader, which makes tensors only, and keep them as safetensors."""

    @model_validator(mode="after")
    def found_or_made(self) -> Self:
        """One of the two."""
        if (self.path is None) == (self.new is None):
            raise ValueError("give either path, or new to make one from the training rows")
        if self.new and self.revision:
            raise ValueError("revision is of a path; remove it")
        return self


class Pretraining(Config):
    """Continue the backbone's pretraining on unlabelled text before anything else."""

    objective: Literal["mlm", "denoising", "causal"] = "mlm"
    """What is learned from text alone. mlm, of an encoder: masked words (Devlin et al. 2019);
    denoising, of a seq2seq network: missing spans (Raffel et al. 2020); causal, of a causal one:
    each next word."""
    data: Literal["source", "target", "both"] = "target"
    """Whose training text is read: what a prediction is asked for. Labels, and what is to be
    written, are not used."""
    steps: PositiveInt = 500
    """Optimizer steps; of several processes each takes its share."""
    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate."""
    tokens_per_batch: PositiveInt = 2048
    """Padded tokens in one step of one process."""
    processes: PositiveInt = 1
    """As of `training`; the steps are shared among them."""
    mask: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens that are to be guessed; causal guesses all."""

    @model_validator(mode="after")
    def causal_masks_nothing(self) -> Self:
        """A share that would be ignored is refused."""
        if self.objective == "causal" and "mask" in self.model_fields_set:
            raise ValueError("causal guesses every token; remove mask")
        return self


class EarlyStopping(Config):
    """Stop when the score that is watched no longer rises, and keep the best weights."""

    patience: PositiveInt = 2
    """Epochs without a better score before training stops."""
    watch: Literal["labels", "text"] = "labels"
    """labels: the metric on validation rows. text: how much the predictions say of the target's
    unlabelled rows (their mutual information), for a target without labels to choose by; it judges
    confidence, and presumes labels about equally frequent."""


class Training(Config):
    """How long and how fast the weights move."""

    epochs: PositiveInt = 3
    """Passes over the target's labelled rows; without any, over the sources'."""
    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate of the backbone's top layer and the head."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises; it falls linearly afterwards."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay, on matrices only."""
    tokens_per_batch: PositiveInt = 1024
    """Padded tokens in one step of one process. Batches are cut by length, so this bounds memory;
    episodes, of shots and queries, are not cut."""
    processes: PositiveInt = 1
    """How many learn together on one machine, each on a GPU of its own or on its share of the
    cores. A step is down the mean of their gradients: so many times the rows, and so many times
    fewer steps in an epoch."""
    clip_norm: PositiveFloat = 1.0
    """The gradient's norm is clipped to this."""
    dropout: Share = 0.1
    """Dropout in the backbone while training."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the hardware computes it natively, else float32."""
    early_stopping: EarlyStopping | None = None
    """null: train all epochs and keep the last weights."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints; a killed run goes on from the last one."""


class SourceTraining(Training):
    """Training on the sources' labels, before the paradigm has its turn."""

    epochs: PositiveInt = 3
    """Passes over the sources' labelled rows."""
    freeze: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    """So many lower layers, and the embeddings below them, stay as they are; 0: none; all: only the
    heads learn, from features that are computed once."""


class Validation(Config):
    """When the gate shuts."""

    reject_over: Share = 0.01
    """Share of rows that may be rejected (they go to quarantine); over it nothing is trained."""
    unknown_over: Share = 0.3
    """Share of a domain's tokens that the backbone's vocabulary may not know; over it nothing is
    trained, since a script that it does not know is noise to it."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Training rows at least this similar (Jaccard, words in threes) to a test row are dropped."""


class Evaluation(Config):
    """What the transfer is measured by and against."""

    metric: str | None = None
    """The score that decides; null: the application's own choice."""
    baselines: tuple[Baseline, ...] | None = None
    """What is scored beside the transfer on the same test rows; null: what needs no learning
    (majority: the most frequent label; copy: the text as it is; lead: its first
    sentences), `source_only` and `target_only`.
    `source_only` needs `source_training`, and a source with the target's labels."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples behind every interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of every interval."""


class Promotion(Config):
    """Where the trained model goes, and what it must show to take the champion's place."""

    model: Name
    """Name in the MLflow registry; the new version gets the alias `challenger`."""
    minimum_gain: Annotated[float, Field(ge=0)] = 0.0
    """A challenger is promoted if the whole interval of its gain over the champion, in the metric
    that decides, is above this."""
    margin: Annotated[float, Field(gt=0)] | None = None
    """A challenger that is not promoted is equivalent if its gain is, at this confidence, within so
    much of zero; null: 0.02 of the highest score there is (2 for BLEU)."""
    worst_slice: Annotated[float, Field(gt=0)] | None = None
    """No label, and no third of the rows by length, may lose so much to the champion, beyond doubt;
    null: the margin."""
    source_drop: Annotated[float, Field(ge=0)] | None = None
    """How much lower the transfer may score on a source's own test rows than the source's model did
    before it, in the metric that decides; of sources with the target's labels. null: not asked,
    which spares the time."""
    calibration_error: Share | None = None
    """How far, on average, the challenger's confidence may be from its accuracy; null: at will."""
    milliseconds: PositiveFloat | None = None
    """How long the challenger may take for one text, in 95 of 100 cases, on the machine that the
    promotion runs on; null: at will."""
    megabytes: PositiveFloat | None = None
    """How large the challenger's files may be; null: at will."""
    after_run: bool = False
    """true: each run of the pipeline goes on to the promotion of its challenger."""
    approval: Literal["none", "required"] = "none"
    """required: what evidence would promote waits for a person, in the Prefect UI or by
    `graft approve`."""
    approval_hours: PositiveFloat = 24
    """How long; then it is not promoted."""
    licences: Literal["known", "any"] = "any"
    """known: nothing is promoted whose backbone or data have no `licence`."""


class RunOn(Config):
    """Prefect's work pools, for what `graft deploy` put on a server; `graft run` runs all here."""

    flow: Name = "cpu"
    """Where ingestion, evaluation and registration run, promotion and monitoring too."""
    transfer: Name = "gpu"
    """Where everything learns and answers test rows: a GPU's worker does one at a time."""


class Schedule(Config):
    """When a server runs it by itself."""

    cron: str | None = None
    """Minute, hour, day of the month, month, day of the week: `0 3 * * 1` is Mondays at three."""
    every_hours: Annotated[float, Field(ge=0.1)] | None = None
    """Hours from one run to the next."""
    timezone: str = "UTC"
    """What the cron is read in: Europe/Berlin."""

    @field_validator("timezone")
    @classmethod
    def known_timezone(cls, name: str) -> str:
        """Refuse what is no time zone."""
        if name not in available_timezones():
            raise ValueError(f"'{name}' is no time zone; accepted: UTC, Europe/Berlin, …")
        return name

    @model_validator(mode="after")
    def one_of_both(self) -> Self:
        """Refuse none, both, and a cron that never comes."""
        if (self.cron is None) == (self.every_hours is None):
            raise ValueError("give either cron or every_hours")
        if self.cron is not None:
            from prefect.client.schemas.schedules import CronSchedule

            try:
                CronSchedule(cron=self.cron, timezone=self.timezone)
            except ValueError as error:
                raise ValueError(
                    f"cron '{self.cron}' is none: minute hour day month weekday, such as 0 3 * * 1"
                ) from error
        return self


class Monitoring(Config):
    """Whether fresh text is still what the champion was made for; see `graft monitor`."""

    text: str
    """A file of fresh text, or `served`: what `graft serve --log` kept."""
    false_alarms: Annotated[float, Field(ge=0.001, le=0.5)] = 0.05
    """How often text like that of the target may raise an alarm, by all measures together."""
    schedule: Schedule | None = None
    """When a server looks; null: when it is asked to."""
    retrain: bool = False
    """true: an alarm starts the pipeline again, with the fresh text as the target's `more_text`;
    for a paradigm, or a pretraining, that reads the target's text."""


class Pipeline(Config):
    """One transfer: what is learned, from where, to where and how."""

    description: str = ""
    """One line for people."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 13
    """Seed of splits, initial weights, order and resampling."""
    application: AnyApplication
    """What is learned."""
    backbone: BackboneConfig
    """The network that carries the knowledge."""
    sources: dict[Name, Domain] = Field(min_length=1)
    """Where knowledge comes from: one domain or more."""
    target: dict[Name, Domain] = Field(min_length=1, max_length=1)
    """Where it is wanted: one domain."""
    pretraining: Pretraining | None = None
    """null: the backbone as it comes."""
    source_training: SourceTraining | None = SourceTraining()
    """Training on the sources' labels; null: the backbone goes straight to the target."""
    paradigm: AnyParadigm
    """How knowledge is carried over."""
    training: Training = Training()
    """Training on the target, for the transfer and for the `target_only` baseline alike."""
    validation: Validation = Validation()
    """The data gate."""
    evaluation: Evaluation = Evaluation()
    """The comparison."""
    promotion: Promotion
    """Registration."""
    run_on: RunOn = RunOn()
    """Work pools, on a server."""
    schedule: Schedule | None = None
    """When a server runs it; null: when it is asked to."""
    monitoring: Monitoring | None = None
    """What a server looks at after the model is in production; null: nothing."""

    @property
    def target_name(self) -> str:
        """The name of the one target domain."""
        return next(iter(self.target))

    @property
    def domains(self) -> dict[str, Domain]:
        """All domains by name, the target last."""
        return {**self.sources, **self.target}

    @property
    def baselines(self) -> tuple[str, ...]:
        """What is scored beside the transfer."""
        given = self.evaluation.baselines
        return (self.application.floor, "source_only", "target_only") if given is None else given

    @property
    def metric(self) -> str:
        """The score that decides."""
        return self.evaluation.metric or self.application.metric

    @property
    def margin(self) -> float:
        """Gains up to this do not matter."""
        given = self.promotion.margin
        return MARGIN * self.application.best if given is None else given

    @property
    def labelled_alike(self) -> tuple[str, ...]:
        """The sources that are labelled with the target's labels."""
        kind = self.application.kind
        return tuple(n for n, d in self.sources.items() if self.task(n) == kind and d.labelled != 0)

    @property
    def retained(self) -> tuple[str, ...]:
        """The sources whose scores before and after the transfer are wanted."""
        return () if self.promotion.source_drop is None else self.labelled_alike

    def task(self, domain: str) -> str:
        """The task a domain's labels belong to: the target's, or one of its own."""
        own = self.domains[domain].application
        return self.application.kind if own in (None, self.application) else domain

    @property
    def tasks(self) -> dict[str, AnyApplication]:
        """Every task by name, the target's first: one head each."""
        own = {name: domain.application for name, domain in self.sources.items()}
        return {
            self.application.kind: self.application,
            **{n: a for n, a in own.items() if a is not None and self.task(n) == n},
        }

    @property
    def sources_share_task(self) -> bool:
        """Whether a source is labelled with the target's labels, so that its model can be tried as
        it is."""
        return bool(self.labelled_alike)

    def application_of(self, domain: str) -> AnyApplication:
        """What a domain's rows are labelled with."""
        return self.tasks[self.task(domain)]

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Refuse what no field can refuse alone."""
        consistency.check(self)
        return self


class Pipelines(Config):
    """The whole of `pipelines.yaml`."""

    defaults: dict[str, Any] = {}
    """Merged under every pipeline: a pipeline's own values win."""
    pipelines: dict[Name, Pipeline] = Field(min_length=1)
    """The pipelines by name."""
