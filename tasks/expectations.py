"""What an application asks of its fields, as a Great Expectations suite."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import DataRejected
from tasks.learning.contracts import Application, Rule

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

UNLABELLED = "unlabelled"
COUNT = " (items)"
"""What is added to a field's name for the column with its number of items."""
VISIBLE = r"[^\s\u200b-\u200d\u2060\ufeff]"
"""A character that is neither a space nor of zero width."""


@dataclass(frozen=True)
class Finding:
    """One expectation's outcome."""

    column: str
    reason: str
    positions: list[int]
    """0-based positions of the rows that fail it."""


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
        ]
        if rule.pattern is None:
            visible = gxe.ExpectColumnValuesToMatchRegex(column=field, regex=VISIBLE)
            built.append((visible, "is blank"))
        else:
            matching = gxe.ExpectColumnValuesToMatchRegex(column=field, regex=rule.pattern)
            built.append((matching, f"is not accepted; accepted: {rule.accepted}"))
        if rule.as_many_as is not None:
            equal = gxe.ExpectColumnPairValuesToBeEqual(
                column_A=field + COUNT,
                column_B=rule.as_many_as + COUNT,
                ignore_row_if="either_value_is_missing",
            )
            built.append((equal, f"has not as many items as '{rule.as_many_as}'"))
        if rule.values is not None:
            accepted = gxe.ExpectColumnValuesToBeInSet(column=field, value_set=list(rule.values))
            built.append((accepted, f"is not accepted; accepted: {', '.join(rule.values)}"))
    return built


def examine(name: str, frame: pd.DataFrame, application: Application, docs: Path) -> list[Finding]:
    """Run the suite, write its Data Docs, and return one finding an expectation.

    Raises:
        DataRejected: an expectation did not run, so nothing is known about these rows.
    """
    with _quiet():
        built = expectations(application.fields, application.inputs)
        counted = with_counts(frame.fillna({"split": ""}), application.fields)
        results = _run(name, counted, [e for e, _ in built], docs)
    if len(results) != len(built):
        raise DataRejected(f"{name}: only {len(results)} of {len(built)} expectations ran")
    # Great Expectations returns results in an order of its own.
    reasons = {
        (_column(e.configuration.kwargs), e.configuration.type): reason for e, reason in built
    }
    findings = []
    for result in results:
        asked = result.expectation_config
        assert asked is not None
        column = _column(asked.kwargs)
        reason = reasons[column, asked.type]
        positions = (result.result or {}).get("unexpected_index_list") or []
        if not result.success and not positions:
            raise DataRejected(f"{name}: column '{column}' cannot be checked ({asked.type})")
        findings.append(Finding(column, reason, positions))
    return findings


def with_counts(frame: pd.DataFrame, fields: Mapping[str, Rule]) -> pd.DataFrame:
    """The frame, and beside each column of items how many there are."""
    counts = {f + COUNT: frame[f].str.count(" ") + 1 for f, rule in fields.items() if rule.items}
    return frame.assign(**counts)


def _column(asked: Mapping[str, Any]) -> str:
    """The field an expectation is about."""
    column: str = asked.get("column") or asked["column_A"].removesuffix(COUNT)
    return column


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
