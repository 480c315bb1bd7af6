"""Which rows change with a promotion: those the challenger does worse, and those it does better.

A row's own score is the metric of that row alone, and the best there is where it is wholly right:
right or wrong where it has one label, something in between where texts are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.config import Pipeline
from tasks.domain import SLICE
from tasks.learning.contracts import Prediction, Row

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 500
"""Rows that flips.html has of each kind, those that change most; flips.parquet has all."""


def flips(
    pipeline: Pipeline,
    champion: Sequence[Prediction],
    challenger: Sequence[Prediction],
    rows: Sequence[Row],
) -> pd.DataFrame:
    """The rows whose own score changes, those that lose most first.

    Columns: change (worse, better), difference, id, the application's fields, what it measures of a
    row, and what either answered.
    """
    import pandas as pd

    application = pipeline.application
    before, after = (own_scores(pipeline, answers, rows) for answers in (champion, challenger))
    difference = after - before
    (target,) = pipeline.target.values()
    slices = target.slice_columns
    measures = application.measures(rows[0])
    names = ["change", "difference", "id", *application.fields, *slices.values(), *measures]
    return pd.DataFrame(
        [
            {
                "change": "better" if difference[n] > 0 else "worse",
                "difference": float(difference[n]),
                "id": rows[n]["id"],
                **{name: rows[n][name] for name in application.fields},
                **{name: str(rows[n].get(name) or "none") for name in slices.values()},
                **application.measures(rows[n]),
                "champion": shown(champion[n]),
                "challenger": shown(challenger[n]),
            }
            for n in np.argsort(difference, kind="stable")
            if difference[n] != 0
        ],
        columns=[*names, "champion", "challenger"],
    )


def own_scores(
    pipeline: Pipeline, answers: Sequence[Prediction], rows: Sequence[Row]
) -> np.ndarray:
    """(N,) each row's own score; of texts too short for BLEU all or nothing."""
    application = pipeline.application
    scores = application.scores(application.statistics(answers, rows))
    found = np.nan_to_num(scores[application.sliced(pipeline.metric)])
    return np.where(application.correct(answers, rows), application.best, found)


def shown(prediction: Prediction) -> str:
    """An answer as it is read: the first thing a prediction says."""
    answer = next(iter(prediction.values()))
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def write(table: pd.DataFrame, report: Mapping[str, Any], folder: Path) -> None:
    """flips.parquet and, to be looked at, flips.html."""
    table.to_parquet(folder / "flips.parquet", index=False)
    (folder / "flips.html").write_text(page(table, report), encoding="utf-8")


def page(table: pd.DataFrame, report: Mapping[str, Any]) -> str:
    """What changes, by label and length, and the rows themselves."""
    if table.empty:
        return f"<!doctype html><meta charset=utf-8><p>None of {report['rows']} rows changes.</p>"
    worse, better = (table[table["change"] == change] for change in ("worse", "better"))
    parts = [
        f"<h1>{len(worse)} rows worse, {len(better)} better, of {report['rows']}</h1>",
        *(f"<h2>By {escape(name)}</h2>{found}" for name, found in counts(table).items()),
        "<h2>Worse</h2>",
        worse.head(SHOWN).to_html(index=False, float_format="{:.3f}".format),
        "<h2>Better</h2>",
        better.iloc[::-1].head(SHOWN).to_html(index=False, float_format="{:.3f}".format),
    ]
    style = "body{font-family:sans-serif}table{border-collapse:collapse}td,th{padding:.3em .6em}"
    return f"<!doctype html><meta charset=utf-8><style>{style}</style>{''.join(parts)}"


def counts(table: pd.DataFrame) -> dict[str, str]:
    """label, length … -> how many rows are worse and better in each part, as a table."""
    import pandas as pd

    measures = [name for name in table.columns[3:-2] if pd.api.types.is_numeric_dtype(table[name])]
    groups = {name: pd.cut(table[name], 3, precision=0) for name in measures}
    if "label" in table:
        groups = {"label": table["label"], **groups}
    groups |= {name: table[name] for name in table.columns if name.startswith(SLICE)}
    return {
        name: pd.crosstab(group.astype(str), table["change"]).to_html()
        for name, group in groups.items()
    }
