"""Who trains, who validates and who tests, without a row of the test set leaking into training.

    place = hash(seed, purpose, group or text), uniform in [0, 1); of "rank", the text alone

    test         place("test") < split.test, or the data's own test file
    labelled     the first `labelled` of the rest, ranked by place("rank"); all, if not set
    test and validation rows beyond the `tested` ones are in no set
    unlabelled   the others, without their labels, and the data's own unlabelled file
    validation   labelled rows with place("validation") < split.validation, or the data's own file

A row's place follows from its own text (or group) and the seed alone. Rows that are added later
move no other row between test and training; they may only displace the last of the `labelled`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import store
from tasks.config import Pipeline
from tasks.domain import Domain
from tasks.errors import DataRejected
from tasks.leakage import Leak, Row, find_leaks, leak_report, row_id
from tasks.learning.contracts import Application
from tasks.stage import Stage

MOST_SLICES = 20
"""Values of a column that rows are scored by: of more, each has too few rows to say anything."""
SETS = ("train", "validation", "test", "unlabelled")
LEARNED = "learned.txt"
"""Digests of the texts whose labels are learned from or chosen by, of all domains."""


def stage(pipeline: Pipeline, rows: Mapping[str, store.Output]) -> Stage:
    """Plan the split of all domains; `rows` are their validated rows.

    Its key follows from every domain's rows, but the files of one domain depend on the others
    only by the test rows it must not contain: downstream, use `output.digest("movies/")`.
    """
    return Stage(
        name="split",
        subject=", ".join(pipeline.domains),
        config={
            "seed": pipeline.seed,
            "target": pipeline.target_name,
            "domains": {
                name: {
                    **domain.model_dump(
                        mode="json", include={"split", "labelled", "tested", "read_test_text"}
                    ),
                    "application": pipeline.application_of(name).model_dump(mode="json"),
                }
                for name, domain in pipeline.domains.items()
            },
            "near_duplicates": pipeline.validation.near_duplicates,
            "rows_per_label": pipeline.paradigm.rows_per_label,
        },
        inputs={name: output.digest("rows.parquet") for name, output in rows.items()},
        compute=lambda folder: split(pipeline, rows, folder),
    )


def split(pipeline: Pipeline, rows: Mapping[str, store.Output], folder: Path) -> None:
    """Write `<domain>/{train,validation,test,unlabelled}.parquet`, learned.txt and `report.json`.

    Raises:
        DataRejected: a set or a class is missing, or the domains' labels differ.
    """
    import pyarrow.parquet as pq

    target = pipeline.target_name
    kept: dict[str, list[Row]] = {}
    tests: dict[str, list[Row]] = {}
    for name, domain in pipeline.domains.items():
        inputs = pipeline.application_of(name).inputs
        read = pq.read_table(rows[name].file("rows.parquet")).to_pylist()
        own = [{**row, "key": text_key(row, inputs)} for row in read]
        kept[name], tests[name] = take_test(own, domain, pipeline.seed)
        tested = {row["group"] for row in tests[name]} - {None}
        kept[name] = [row for row in kept[name] if row["group"] not in tested]
    leaks: list[Leak] = []
    for name in pipeline.domains:
        for test in dict.fromkeys((target, name)):
            found = find_leaks(
                name, kept[name], test, tests[test], pipeline.validation.near_duplicates
            )
            gone = {row_id(leak.row) for leak in found}
            kept[name] = [row for row in kept[name] if row_id(row) not in gone]
            leaks += found
    sets = {
        name: {
            **assign(kept[name], domain, pipeline.seed),
            "test": scored(tests[name], domain, pipeline.seed),
        }
        for name, domain in pipeline.domains.items()
    }
    for name, domain in pipeline.domains.items():
        if domain.read_test_text:
            sets[name]["unlabelled"] = [*sets[name]["unlabelled"], *tests[name]]
    check(sets, pipeline, Counter(leak.domain for leak in leaks))
    for name, by_set in sets.items():
        for kind in SETS:
            application = pipeline.application_of(name)
            beside = ("group", *pipeline.domains[name].slice_columns.values())
            _write(by_set[kind], kind, application, beside, folder / name / f"{kind}.parquet")
    learned = {
        text_digest(row["key"])
        for by_set in sets.values()
        for kind in ("train", "validation")
        for row in by_set[kind]
    }
    (folder / LEARNED).write_text("\n".join(sorted(learned)), encoding="utf-8")
    report = {
        "domains": {name: _report(by_set) for name, by_set in sets.items()},
        "leaks": leak_report(leaks),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text, encoding="utf-8")


def text_key(row: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """The row's input, casefolded, white space as single blanks: equal keys are equal texts."""
    return "\n".join(" ".join((row[field] or "").casefold().split()) for field in inputs)


def text_digest(key: str) -> str:
    """What tells whether a text is the same without holding it."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def unit(row: Row) -> str:
    """What is never split: the row's group, else its text."""
    return f"group {row['group']}" if row["group"] is not None else f"text {row['key']}"


def place(seed: int, purpose: str, of: str) -> float:
    """Uniform in [0, 1), from a group or text alone; each purpose draws afresh."""
    drawn = hashlib.sha256(f"{seed}\0{purpose}\0{of}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") / 2**64


def take_test(rows: list[Row], domain: Domain, seed: int) -> tuple[list[Row], list[Row]]:
    """All other rows, and the test rows: the data's own, else a share by hash."""
    if any(row["split"] == "test" for row in rows):
        chosen = [row["split"] == "test" for row in rows]
    else:
        chosen = [
            row["split"] in (None, "train") and place(seed, "test", unit(row)) < domain.split.test
            for row in rows
        ]
    return (
        [row for row, test in zip(rows, chosen, strict=True) if not test],
        [row for row, test in zip(rows, chosen, strict=True) if test],
    )


def ranked(rows: list[Row], seed: int) -> list[Row]:
    """The rows in an order that the seed draws, not by group: ten labels of one group say less than
    ten of ten."""
    ranks = {row_id(row): place(seed, "rank", f"text {row['key']}") for row in rows}
    return sorted(rows, key=lambda row: (ranks[row_id(row)], row_id(row)))


def scored(rows: list[Row], domain: Domain, seed: int) -> list[Row]:
    """The test or validation rows that are scored, in the order of the data."""
    drawn = {row_id(row) for row in ranked(rows, seed)[: domain.tested]}
    return [row for row in rows if row_id(row) in drawn]


def assign(rows: list[Row], domain: Domain, seed: int) -> dict[str, list[Row]]:
    """Training, validation and unlabelled rows, each in the order of the data."""
    pool = [row for row in rows if row["split"] in (None, "train")]
    validation = [row for row in rows if row["split"] == "validation"]
    unlabelled = {row_id(row) for row in rows if row["split"] == "unlabelled"}
    if domain.labelled is not None:
        drawn = {row_id(row) for row in ranked(pool, seed)[: domain.labelled]}
        unlabelled |= {row_id(row) for row in pool} - drawn
    labelled = [row for row in pool if row_id(row) not in unlabelled]
    if not validation:
        share = domain.split.validation
        validation = [row for row in labelled if place(seed, "validation", unit(row)) < share]
    if domain.labelled == 0:
        validation = []  # its labels would choose the model
    held = {row_id(row) for row in validation}
    return {
        "train": [row for row in labelled if row_id(row) not in held],
        "validation": scored(validation, domain, seed),
        "unlabelled": [row for row in rows if row_id(row) in unlabelled],
    }


def check(
    sets: Mapping[str, Mapping[str, Sequence[Row]]],
    pipeline: Pipeline,
    dropped: Mapping[str, int],
) -> None:
    """Refuse sets that nothing can be learned from or measured on.

    `dropped` counts the rows of each domain that were taken out as copies of test rows.

    Raises:
        DataRejected: no training or test rows; one class only; labels that differ between target
            and the sources of the same task; a class without test rows; less than what the
            paradigm needs.
    """
    target = pipeline.target_name
    for name, by_set in sets.items():
        wanted = name == target and pipeline.domains[name].labelled != 0
        supervised = wanted or by_set["train"] or not by_set["unlabelled"]
        if supervised and not by_set["train"]:
            raise DataRejected(
                f"{name}: no training rows; lower split.test or split.validation "
                f"({dropped.get(name, 0)} rows were dropped as copies of test rows)"
            )
        found = _classes(by_set["train"], pipeline.application_of(name))
        if len(found) == 1:
            raise DataRejected(
                f"{name}: all {len(by_set['train'])} training rows have label '{min(found)}'; at "
                "least two are needed (use more rows, or raise `labelled`)"
            )
    alike = [n for n in pipeline.sources if pipeline.task(n) == pipeline.application.kind]
    if not any(sets[name]["train"] for name in (target, *alike)):
        raise DataRejected(f"{target}: neither it nor a source of its task has labelled rows")
    if not sets[target]["test"]:
        raise DataRejected(f"{target}: no test rows; raise split.test or add a test file")
    for column, name in pipeline.target[target].slice_columns.items():
        if (count := len({row[name] for row in sets[target]["test"]})) > MOST_SLICES:
            raise DataRejected(
                f"{target}: the test rows have {count} values of '{column}', and slices are of "
                f"{MOST_SLICES} at most; take it out of slices"
            )
    for name in pipeline.retained:
        if not sets[name]["test"]:
            raise DataRejected(
                f"{name}: no test rows, which promotion.source_drop needs; raise split.test"
            )
    _compare_classes(sets, pipeline)
    _check_needs(sets, pipeline)


def _check_needs(sets: Mapping[str, Mapping[str, Sequence[Row]]], pipeline: Pipeline) -> None:
    """As many rows of each of a source's labels as the paradigm takes at a time."""
    needed = pipeline.paradigm.rows_per_label
    for name in pipeline.sources:
        if not sets[name]["train"]:
            continue  # it is there for its text
        application = pipeline.application_of(name)
        rows = Counter(c for row in sets[name]["train"] for c in application.classes(row))
        for label in application.labels:
            if rows[label] < needed:
                raise DataRejected(
                    f"{name}: {rows[label]} training rows have '{label}', but an episode takes "
                    f"{needed}; lower paradigm.shots or paradigm.queries"
                )


def _compare_classes(sets: Mapping[str, Mapping[str, Sequence[Row]]], pipeline: Pipeline) -> None:
    """Domains of the target's task must have the target's labels, and the test set all of them."""
    target, application = pipeline.target_name, pipeline.application
    seen = {
        name: _classes([*by_set["train"], *by_set["validation"], *by_set["test"]], application)
        for name, by_set in sets.items()
        if by_set["train"] and pipeline.task(name) == application.kind
    }
    seen.setdefault(target, _classes(sets[target]["test"], application))
    sources = {name: classes for name, classes in seen.items() if name != target}
    together = set[str]().union(*sources.values())
    if sources and (extra := seen[target] - together):
        raise DataRejected(
            f"{target}: no source has label {_listed(extra)}; the sources' "
            f"({', '.join(sources)}): {_listed(together)}"
        )
    for name, classes in sources.items():
        if extra := classes - seen[target]:
            raise DataRejected(
                f"{name}: label {_listed(extra)} does not occur in target '{target}', which "
                f"has {_listed(seen[target])}"
            )
    tested = _classes(sets[target]["test"], application)
    if missing := [label for label in application.labels if label not in tested]:
        raise DataRejected(
            f"{target}: label {_listed(missing)} has no test row; raise split.test or tested, or "
            "take it out of application.labels"
        )


def _classes(rows: Iterable[Row], application: Application) -> set[str]:
    return set[str]().union(*(application.classes(row) for row in rows))


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


def _write(
    rows: Sequence[Row], kind: str, application: Application, beside: Sequence[str], path: Path
) -> None:
    """id, the fields, and what stands beside them; unlabelled rows lose what is not input."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hidden = set(application.fields) - set(application.inputs) if kind == "unlabelled" else set()
    columns: dict[str, list[str | None]] = {"id": [row_id(row) for row in rows]}
    for name in (*application.fields, *beside):
        columns[name] = [None if name in hidden else row[name] for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), path)


def _report(by_set: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    everything = [row["key"] for rows in by_set.values() for row in rows]
    return {
        **{kind: len(by_set[kind]) for kind in SETS},
        "duplicates": len(everything) - len(set(everything)),
    }
