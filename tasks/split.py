"""Who trains, who validates and who tests, without a row of the test set leaking into training.

    place = hash(seed, purpose, group or text), uniform in [0, 1)

    test         place("test") < split.test, or the data's own test file
    labelled     the first `labelled` of the rest, ranked by place("rank"); all, if not set
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
from tasks.config import Domain, Pipeline
from tasks.errors import DataRejected
from tasks.leakage import Leak, Row, find_leaks, leak_report, row_id
from tasks.learning.contracts import Application
from tasks.stage import Stage

SETS = ("train", "validation", "test", "unlabelled")


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
                name: domain.model_dump(mode="json", include={"split", "labelled"})
                for name, domain in pipeline.domains.items()
            },
            "near_duplicates": pipeline.validation.near_duplicates,
            "fields": {f: rule.values for f, rule in pipeline.application.fields.items()},
            "inputs": pipeline.application.inputs,
        },
        inputs={name: output.digest("rows.parquet") for name, output in rows.items()},
        compute=lambda folder: split(pipeline, rows, folder),
    )


def split(pipeline: Pipeline, rows: Mapping[str, store.Output], folder: Path) -> None:
    """Write `<domain>/{train,validation,test,unlabelled}.parquet` and `report.json`.

    Raises:
        DataRejected: a set or a class is missing, or the domains' labels differ.
    """
    import pyarrow.parquet as pq

    target, inputs = pipeline.target_name, pipeline.application.inputs
    kept: dict[str, list[Row]] = {}
    tests: dict[str, list[Row]] = {}
    for name, domain in pipeline.domains.items():
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
        name: {**assign(kept[name], domain, pipeline.seed), "test": tests[name]}
        for name, domain in pipeline.domains.items()
    }
    check(sets, target, pipeline.application, Counter(leak.domain for leak in leaks))
    for name, by_set in sets.items():
        for kind in SETS:
            _write(by_set[kind], kind, pipeline.application, folder / name / f"{kind}.parquet")
    report = {
        "domains": {name: _report(by_set) for name, by_set in sets.items()},
        "leaks": leak_report(leaks),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text, encoding="utf-8")


def text_key(row: Row, inputs: Sequence[str]) -> str:
    """The row's input, casefolded, white space as single blanks: equal keys are equal texts."""
    return "\n".join(" ".join((row[field] or "").casefold().split()) for field in inputs)


def place(seed: int, purpose: str, row: Row) -> float:
    """Uniform in [0, 1), from the row's group or text alone; each purpose draws afresh."""
    unit = f"group {row['group']}" if row["group"] is not None else f"text {row['key']}"
    drawn = hashlib.sha256(f"{seed}\0{purpose}\0{unit}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") / 2**64


def take_test(rows: list[Row], domain: Domain, seed: int) -> tuple[list[Row], list[Row]]:
    """All other rows, and the test rows: the data's own, else a share by hash."""
    if any(row["split"] == "test" for row in rows):
        chosen = [row["split"] == "test" for row in rows]
    else:
        chosen = [
            row["split"] in (None, "train") and place(seed, "test", row) < domain.split.test
            for row in rows
        ]
    return (
        [row for row, test in zip(rows, chosen, strict=True) if not test],
        [row for row, test in zip(rows, chosen, strict=True) if test],
    )


def assign(rows: list[Row], domain: Domain, seed: int) -> dict[str, list[Row]]:
    """Training, validation and unlabelled rows, each in the order of the data."""
    pool = [row for row in rows if row["split"] in (None, "train")]
    validation = [row for row in rows if row["split"] == "validation"]
    unlabelled = {row_id(row) for row in rows if row["split"] == "unlabelled"}
    if domain.labelled is not None:
        # The text after the group, so that the order within a group is drawn as well.
        rank = sorted(pool, key=lambda row: (place(seed, "rank", row), row["key"], row_id(row)))
        unlabelled |= {row_id(row) for row in rank[domain.labelled :]}
    labelled = [row for row in pool if row_id(row) not in unlabelled]
    if not validation:
        share = domain.split.validation
        validation = [row for row in labelled if place(seed, "validation", row) < share]
    held = {row_id(row) for row in validation}
    return {
        "train": [row for row in labelled if row_id(row) not in held],
        "validation": validation,
        "unlabelled": [row for row in rows if row_id(row) in unlabelled],
    }


def check(
    sets: Mapping[str, Mapping[str, Sequence[Row]]],
    target: str,
    application: Application,
    dropped: Mapping[str, int],
) -> None:
    """Refuse sets that nothing can be learned from or measured on.

    `dropped` counts the rows of each domain that were taken out as copies of test rows.

    Raises:
        DataRejected: no training or test rows; one class only; labels that differ between target
            and sources; a class without test rows.
    """
    for name, by_set in sets.items():
        supervised = name == target or by_set["train"] or not by_set["unlabelled"]
        if supervised and not by_set["train"]:
            raise DataRejected(
                f"{name}: no training rows; lower split.test or split.validation "
                f"({dropped.get(name, 0)} rows were dropped as copies of test rows)"
            )
    if not sets[target]["test"]:
        raise DataRejected(f"{target}: no test rows; raise split.test or add a test file")
    for field, rule in application.fields.items():
        if rule.values is not None:
            _check_classes(sets, target, field, rule.values)


def _check_classes(
    sets: Mapping[str, Mapping[str, Sequence[Row]]],
    target: str,
    field: str,
    accepted: Sequence[str],
) -> None:
    trained = {name: _values(by_set["train"], field) for name, by_set in sets.items()}
    seen = {
        name: trained[name] | _values([*by_set["validation"], *by_set["test"]], field)
        for name, by_set in sets.items()
        if trained[name]
    }
    for name, values in trained.items():
        if len(values) == 1:
            raise DataRejected(
                f"{name}: all {len(sets[name]['train'])} training rows have {field} "
                f"'{min(values)}'; at least two are needed (use more rows, or raise `labelled`)"
            )
    sources = {name: values for name, values in seen.items() if name != target}
    if sources and (extra := seen[target] - set[str]().union(*sources.values())):
        raise DataRejected(
            f"{target}: no source has {field} {_listed(extra)}; the sources' "
            f"({', '.join(sources)}): {_listed(set[str]().union(*sources.values()))}"
        )
    for name, values in sources.items():
        if extra := values - seen[target]:
            raise DataRejected(
                f"{name}: {field} {_listed(extra)} does not occur in target '{target}', which "
                f"has {_listed(seen[target])}"
            )
    tested = _values(sets[target]["test"], field)
    if missing := [value for value in accepted if value not in tested]:
        raise DataRejected(
            f"{target}: {field} {_listed(missing)} has no test row; raise split.test, or take it "
            "out of application.labels"
        )


def _values(rows: Iterable[Row], field: str) -> set[str]:
    return {row[field] for row in rows}


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


def _write(rows: Sequence[Row], kind: str, application: Application, path: Path) -> None:
    """id, the fields, and the group if there is one; unlabelled rows lose what is not input."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hidden = set(application.fields) - set(application.inputs) if kind == "unlabelled" else set()
    columns: dict[str, list[str | None]] = {"id": [row_id(row) for row in rows]}
    for name in (*application.fields, "group"):
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
