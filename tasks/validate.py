"""The data gate: rows that are not what the application asks for do not pass.

Rows that fail go to quarantine; over the allowed share nothing is trained. Downstream stages read
`rows.parquet` alone: the Data Docs carry the time they were made at.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import store
from tasks.config import Validation
from tasks.errors import DataRejected
from tasks.expectations import Finding, examine
from tasks.learning.contracts import Application
from tasks.stage import Stage

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Rejection:
    """One field of one row that is not what the application asks for."""

    file: str
    row: int
    column: str
    value: str | None
    reason: str


def stage(name: str, rows: store.Output, application: Application, validation: Validation) -> Stage:
    """Plan a domain's gate over what ingestion wrote."""
    planned = Stage(
        name="validate",
        subject=name,
        config={
            "domain": name,
            "reject_over": validation.reject_over,
            "fields": {f: vars(rule) for f, rule in application.fields.items()},
            "inputs": application.inputs,
            "application": application.model_dump(mode="json"),  # what it doubts
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
        DataRejected: more than `reject_over` of the rows fail; they are then in `quarantine`. Or
            the application doubts those that are left, all together.
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
    kept = table.filter(good)
    for doubt in application.doubts(kept.to_pylist()):
        raise DataRejected(f"{name}: {doubt}")
    pq.write_table(kept, folder / "rows.parquet")
    report = {
        **rows.read_json("report.json"),
        "rows": table.num_rows - len(bad),
        "rejected": len(bad),
        "share": share,
        "expectations": len(findings),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


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
