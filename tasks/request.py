"""What a served model is asked: the body of a request, in the JSON of MLflow's scoring server.

    {"dataframe_records": [{"text": "great film"}]}
    {"dataframe_split": {"columns": ["text"], "data": [["great film"]]}}
    {"instances": [{"text": "great film"}]}
    {"inputs": {"text": ["great film"]}}

All four say the same. MLflow reads them into a table of whatever columns a client made up, which a
small body can blow up to gigabytes, and answers what it cannot read with a traceback: so they are
read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.ingest import turns

ROWS = 256
"""Of one request: all that wait behind it wait until they are answered. `graft predict` takes files
of any length."""


class Refused(Exception):
    """A request that is not answered: an HTTP status, and one line that says what to do."""

    def __init__(self, status: int, message: str) -> None:
        """Nothing of the machine is in the message: whoever asked reads it."""
        super().__init__(message)
        self.status, self.message = status, message


def requested(body: bytes, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a request, each with the model's input columns and nothing else.

    Raises:
        Refused: 400 or 413, with what is wrong.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON ({str(error)[:100]})") from error
    rows = _rows(given)
    if rows is None:
        like = json.dumps({"dataframe_records": [dict.fromkeys(columns, "Hello.")]})
        raise Refused(400, f"the body must be an object like {like}")
    if not rows:
        raise Refused(400, "there is no row to answer")
    return [_texts(row, columns, number) for number, row in enumerate(rows, 1)]


def _rows(given: Any) -> Sequence[Any] | None:
    """A row each, whatever it may be yet; None: in no form that is known."""
    match given:
        case {"dataframe_records": [*rows]} | {"instances": [*rows]}:
            return _few(rows)
        case {"dataframe_split": {"columns": [*names], "data": [*rows]}}:
            if not all(isinstance(name, str) for name in names):
                raise Refused(400, "dataframe_split: every column's name must be a text")
            return [_paired(names, row) for row in _few(rows)]
        case {"inputs": dict(columns)}:
            return [dict(zip(columns, values, strict=True)) for values in _across(columns)]
    return None


def _few(rows: Sequence[Any]) -> Sequence[Any]:
    """As they are, if they are not too many; asked before anything is made of each."""
    if len(rows) > ROWS:
        raise Refused(413, f"{len(rows)} rows; a request may have {ROWS}: send several")
    return rows


def _paired(names: Sequence[str], row: Any) -> dict[str, Any]:
    """Each value of a row by its column's name."""
    if not isinstance(row, list) or len(row) != len(names):
        raise Refused(400, f"dataframe_split: every row of 'data' must have {len(names)} values")
    return dict(zip(names, row, strict=True))


def _across(columns: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """{"a": [1, 2], "b": [3, 4]} -> (1, 3), (2, 4)"""
    lists = list(columns.values())
    if not all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists):
        raise Refused(400, "inputs: every column must be a list, and all as long as one another")
    return list(zip(*map(_few, lists), strict=True))


def _texts(row: Any, columns: Sequence[str], number: int) -> dict[str, str]:
    """The model's columns of one row; a conversation may be a list of turns, as in the data."""
    if not isinstance(row, dict):
        raise Refused(400, f"row {number} is no object with the column '{columns[0]}'")
    found = {}
    for column in columns:
        if column not in row:
            raise Refused(400, f"row {number} has no column '{column}'")
        value = row[column]
        found[column] = turns(value) if isinstance(value, list) else value
        if not _is_text(found[column]):
            raise Refused(400, f"row {number}: '{column}' is not a text")
    return found


def _is_text(value: Any) -> bool:
    """Something to read, of characters that there are: JSON can spell half of one ("\\ud83d")."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False
