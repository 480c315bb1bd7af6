"""The data gate: what an application asks of its fields, checked by Great Expectations.

Rows that fail go to quarantine; over the allowed share nothing is trained. Downstream stages read
`rows.parquet` alone: the Data Docs carry the time they were made at.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import store
from tasks.config import Validation
from tasks.errors import DataRejected
from tasks.learning.contracts import Application, Rule
from tasks.stage import Stage

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

UNLABELLED = "unlabelled"
VISIBLE = r"[^\s\u200b-\u200d\u2060\ufeff]"
"""A character that is neither a space nor of zero width."""


@dataclass(frozen=True)
class Rejection:
    """One field of one row that is not what the application asks for."""

    file: str
    row: int
    column: str
    value: str | None
    reason: str


@dataclass(frozen=True)
class Finding:
    """One expectation's outcome."""

    column: str
    reason: str
    positions: list[int]
    """0-based positions of the rows that fail it."""


def stage(name: str, rows: store.Output, application: Application, validation: Validation) -> Stage:
    """Plan a domain's gate over what ingestion wrote."""
    planned = Stage(
        name="validate",
        subject=name,
        config={
            "domain": name,
            "reject_over": validation.reject_over,
            "fields": {f: [r.values, r.maximum_characters] for f, r in application.fields.items()},
            "inputs": application.inputs,
        },
        inputs={"rows": rows.digest()},
        compute=lambda folder: gate(
            name,
            rows,
            application,
            validation.reject_over,
            folder,
            store.home() / "quarantine" / f"{name}-{planned.key[:12]}.jsonl",
        ),
    )
    return planned


def gate(
    name: str,
    rows: store.Output,
    application: Application,
    reject_over: float,
    folder: Path,
    quarantine: Path,
) -> None:
    """Write `rows.parquet`, `quarantine.jsonl`, `report.json` and `data_docs/`.

    Raises:
        DataRejected: more than `reject_over` of the rows fail; they are then in `quarantine`.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(rows.file("rows.parquet"))
    shutil.rmtree(folder / "data_docs", ignore_errors=True)  # a killed run's
    findings = examine(name, table.to_pandas(), application, folder / "data_docs")
    rejections = list(_rejections(table, findings))
    bad = {position for finding in findings for position in finding.positions}
    good = [position not in bad for position in range(table.num_rows)]
    share = len(bad) / table.num_rows
    lines = "".join(json.dumps(vars(r), ensure_ascii=False) + "\n" for r in rejections)
    (folder / "quarantine.jsonl").write_text(lines, encoding="utf-8")
    if share > reject_over:
        quarantine.parent.mkdir(parents=True, exist_ok=True)
        quarantine.write_text(lines, encoding="utf-8")
        first = rejections[0]
        raise DataRejected(
            f"{name}: {len(bad)} of {table.num_rows} rows rejected ({share:.1%}, allowed "
            f"{reject_over:.1%}); first {first.file}:{first.row} column '{first.column}': "
            f"{_shown(first.value)} {first.reason}; all in {quarantine}"
        )
    pq.write_table(table.filter(good), folder / "rows.parquet")
    report = {
        **rows.read_json("report.json"),
        "rows": table.num_rows - len(bad),
        "rejected": len(bad),
        "share": share,
        "expectations": len(findings),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


def expectations(
    fields: Mapping[str, Rule], inputs: Sequence[str]
) -> list[tuple[Expectation, str]]:
    """What each field must be, with the reason a row that fails is given.

    Rows that came as unlabelled may lack whatever is not among the `inputs`.
    """
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    built: list[tuple[Expectation, str]] = []
    for field, rule in fields.items():
        labelled = None if field in inputs else Column("split") != UNLABELLED
        built += [
            (gxe.ExpectColumnToExist(column=field), "is missing"),
            (
                gxe.ExpectColumnValuesToNotBeNull(column=field, row_condition=labelled),
                "is empty",
            ),
            (gxe.ExpectColumnValuesToMatchRegex(column=field, regex=VISIBLE), "is blank"),
        ]
        if rule.values is not None:
            accepted = gxe.ExpectColumnValuesToBeInSet(column=field, value_set=list(rule.values))
            built.append((accepted, f"is not accepted; accepted: {', '.join(rule.values)}"))
        if rule.maximum_characters is not None:
            short = gxe.ExpectColumnValueLengthsToBeBetween(
                column=field, max_value=rule.maximum_characters
            )
            built.append((short, f"is longer than {rule.maximum_characters} characters"))
    return built


def examine(name: str, frame: pd.DataFrame, application: Application, docs: Path) -> list[Finding]:
    """Run the suite, write its Data Docs, and return one finding an expectation.

    Raises:
        DataRejected: an expectation did not run, so nothing is known about these rows.
    """
    with _quiet():
        built = expectations(application.fields, application.inputs)
        results = _run(name, frame.fillna({"split": ""}), [e for e, _ in built], docs)
    if len(results) != len(built):
        raise DataRejected(f"{name}: only {len(results)} of {len(built)} expectations ran")
    # Great Expectations returns results in an order of its own.
    reasons = {(e.column, e.expectation_type): reason for e, reason in built}  # type: ignore[attr-defined]
    findings = []
    for result in results:
        asked = result.expectation_config
        assert asked is not None
        column = asked.kwargs["column"]
        reason = reasons[column, asked.type]
        positions = (result.result or {}).get("unexpected_index_list") or []
        if not result.success and not positions:
            raise DataRejected(f"{name}: column '{column}' cannot be checked ({asked.type})")
        findings.append(Finding(column, reason, positions))
    return findings


def _run(
    name: str, frame: pd.DataFrame, asked: list[Expectation], docs: Path
) -> list[ExpectationValidationResult]:
    """One checkpoint over the frame, in a context that leaves nothing but `docs` behind."""
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    context.add_data_docs_site(
        "data_docs",
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(docs),
            },
        },
    )
    rows = context.data_sources.add_pandas(name).add_dataframe_asset("rows")
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[
            context.validation_definitions.add(
                gx.ValidationDefinition(
                    name=name,
                    data=rows.add_batch_definition_whole_dataframe("all"),
                    suite=context.suites.add(gx.ExpectationSuite(name=name, expectations=asked)),
                )
            )
        ],
        actions=[UpdateDataDocsAction(name="docs", site_names=["data_docs"])],
        result_format="COMPLETE",
    )
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
    (validated,) = outcome.run_results.values()
    return list(validated.results)


def _rejections(table: pa.Table, findings: list[Finding]) -> Iterator[Rejection]:
    """In the rows' order; of several reasons for one field, the first."""
    import pyarrow as pa

    reasons: dict[tuple[int, str], str] = {}
    for finding in findings:
        for position in finding.positions:
            reasons.setdefault((position, finding.column), finding.reason)
    found = sorted(reasons.items())
    positions = pa.array([position for (position, _), _ in found], pa.int64())
    rows: list[dict[str, Any]] = table.take(positions).to_pylist()
    for row, ((_, column), reason) in zip(rows, found, strict=True):
        yield Rejection(row["file"], row["row"], column, row[column], reason)


def _shown(value: str | None) -> str:
    if value is None:
        return "the value"
    return f"'{value if len(value) <= 60 else value[:60] + '…'}'"


@contextmanager
def _quiet() -> Iterator[None]:
    """No analytics, and no chatter from Great Expectations and what it uses."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    loggers = [logging.getLogger(n) for n in ("great_expectations", "posthog", "marshmallow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
