"""Where rows come from and what they mean: the `sources` and the `target` of `pipelines.yaml`."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.learning.applications import AnyApplication
from tasks.learning.contracts import Config

Share = Annotated[float, Field(ge=0, lt=1)]
Format = Literal[
    "jsonl", "csv", "tsv", "parquet", "conll", "moses", "mo", "po",
    "cluener", "chatterbot", "chitchat", "metadata",
]  # fmt: skip


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


SLICE = "slice "
"""What the name of a column begins with in Graft's rows that only tells them apart."""


class Domain(Config):
    """Where rows come from, and how they become `text` and `label`."""

    path: str
    """A file or folder (jsonl, csv, tsv, parquet; gz, zip and tar are looked into), a hub id,
    `package:NAME==VERSION/inner/path`, or `installed:`, the folder of this Python's packages."""
    revision: str | None = None
    """`sha256:…` of a registry package's file (required there), or a hub commit."""
    licence: str | None = None
    """The data's licence; it stands in the model card."""
    more_text: str | None = None
    """A file of more of this domain's text, without labels, whose columns are called as Graft's
    fields are (jsonl, csv, parquet): what `graft monitor` keeps of a drift."""
    application: AnyApplication | None = None
    """What this source's labels are, where they differ from the target's; they then have a head of
    their own. null: the pipeline's application."""
    files: str | None = None
    """Which files below the folder are read, all as one: `**/locale/ug/LC_MESSAGES/*.mo`, where `*`
    is any name and `**` any folders. null: files that are named train, dev, test or unlabelled, or
    the only one."""
    format: Format | None = None
    """How the files are to be read; null: by their names' endings. moses: a text and its
    translation on the same line of files side by side, train.en and train.ug, whose endings are the
    columns.
    chatterbot and chitchat: conversations, of which each turn is a response to those before it.
    metadata: what an installed package says of itself, METADATA in its .dist-info."""
    header: tuple[str, ...] | None = None
    """Column names of a csv or tsv file that has no header line."""
    columns: dict[str, str] = {}
    """Graft's field -> the column's name in the data, where they differ; `translation.tr` is what
    the object in column `translation` has as `tr`."""
    label_rule: dict[str, tuple[str | int | bool, ...] | Range] | None = None
    """Label -> the values, or the range of scores, that mean it; null: labels are as they stand."""
    split: Split = Split()
    """Shares for test and validation, where the data bring no such files."""
    group: str | None = None
    """A column whose rows belong together (one review's sentences): kept on one side of the test
    set, and drawn together for every interval."""
    group_separator: str | None = None
    """The group is the column's value up to this: with "_", 12_3 and 12_4 are both of group 12."""
    slices: tuple[str, ...] = ()
    """Columns of the target's data, such as a country or a language: the test rows of each value
    are scored apart, and none may lose much by a promotion (`promotion.worst_slice`)."""
    labelled: Annotated[int, Field(ge=0)] | None = None
    """Use the labels of so many rows only, drawn one by one, of whatever group; the rest of the
    training rows is unlabelled text. 0, for a target: domain adaptation on its text alone."""
    tested: Annotated[int, Field(gt=0)] | None = None
    """Score on so many of the test rows only, and after each epoch on so many validation rows, both
    drawn as the labelled ones are; the others are neither scored nor learned from. Where texts are
    written, each row takes a while."""
    read_test_text: bool = False
    """The test rows' text, without their labels, is unlabelled text as well (transductive learning,
    as the papers on the Amazon pairs do it): say so where you report the score."""

    @property
    def slice_columns(self) -> dict[str, str]:
        """Each column of `slices`, and what a row of Graft's calls it."""
        return {column: f"{SLICE}{column}" for column in self.slices}

    @model_validator(mode="after")
    def ranges_apart(self) -> Self:
        """Refuse a range that no score can lie in, and what would give one value two labels."""
        given: dict[str, str] = {}
        for name, rule in (self.label_rule or {}).items():
            for value in () if isinstance(rule, Range) else rule:
                spelled = str(value).lower() if isinstance(value, bool) else str(value)
                other = given.setdefault(spelled, name)
                if other != name:
                    raise Conflict(
                        ("label_rule", name),
                        f"label_rule: both '{other}' and '{name}' are given '{value}'",
                    )
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
