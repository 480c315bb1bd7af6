"""What a registered model is asked by hand: a text, or a file with the columns it reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_inputs(text: str, columns: Sequence[str]) -> pd.DataFrame:
    """The columns, of a file if there is one of that name, else of the text itself; each value a
    text.

    Raises:
        DataError: the file cannot be read, lacks a column, or a row has no text in it.
    """
    import pandas as pd

    from tasks.ingest import turns

    path = Path(text)
    table = read_table(path, columns[0]) if is_file(path) else pd.DataFrame({columns[0]: [text]})
    if missing := [column for column in columns if column not in table]:
        raise DataError(f"{text}: no column '{missing[0]}'; found: {', '.join(map(str, table))}")
    inputs = table[list(columns)].reset_index(drop=True)
    for column in columns:  # a conversation may be a list, as in the data
        inputs[column] = [turns(v) if isinstance(v, list) else v for v in inputs[column]]
    for column in columns:
        blank = [i for i, v in enumerate(inputs[column], 1) if not isinstance(v, str) or not v]
        if blank:
            raise DataError(f"{text}: row {blank[0]}: '{column}' is not a text")
    return inputs


def is_file(path: Path) -> bool:
    """Whether there is such a file."""
    try:
        return path.is_file()
    except OSError:  # a text too long for a file name
        return False


def read_table(path: Path, column: str) -> pd.DataFrame:
    """A file as a table; the lines of a txt file are one `column`.

    Raises:
        DataError: it cannot be read.
    """
    import pandas as pd

    readers = {
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False),
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False),
        ".parquet": lambda: pd.read_parquet(path),
        ".txt": lambda: pd.DataFrame({column: path.read_text(encoding="utf-8").splitlines()}),
    }
    if path.suffix not in readers:
        raise DataError(f"{path}: '{path.suffix}' is unknown; accepted: {', '.join(readers)}")
    try:
        return readers[path.suffix]()
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())[:150]}") from error
